"""Fused training ops that replace torch's.

Imported as ``cifarfast.kernels``. Needs torch; on a GPU triton makes it fast. Nothing else of cifarfast is imported.
"""

from .batch_norm.add_batch_norm_act.op import AddBatchNormAct2d, add_batch_norm_act
from .batch_norm.batch_norm_act.module import BatchNormAct2d, ForkBatchNormAct2d
from .batch_norm.batch_norm_act.op import batch_norm_act
from .convolution.bn_act_conv2d.op import BNActConv2d, bn_act_conv2d
from .convolution.conv2d.op import conv2d
from .convolution.conv2d_bn_act.op import ConvBNAct2d, conv2d_bn_act
from .cross_entropy.op import CrossEntropyLoss, cross_entropy
from .deprecated import (
    bn_act_conv2d_for_norm,
    bn_act_conv2d_stats,
    conv2d_stats,
    fork_batch_norm_act,
    fork_bn_act_conv2d_for_norm,
    fork_bn_act_conv2d_stats,
    shakedrop_bn_shortcut_for_norm,
    shakedrop_bn_shortcut_stats,
)
from .dropout.op import Dropout, dropout
from .flat.flat_optimizer.steps import (
    flat_adagrad_step,
    flat_adam_step,
    flat_adamax_step,
    flat_adamw_step,
    flat_nadam_step,
    flat_rmsprop_step,
    flat_sgd_step,
)
from .flat.op import flat_asam_norm, flat_clip, flat_ema, flat_grad_norm, flat_lookahead, flat_perturb
from .flat.scalars import FlatScalar, flat_scalars
from .flat.table import FLAT_BLOCK, FlatTable, flat_table
from .pooling.global_avg_pool_act.op import GlobalAvgPoolAct2d, global_avg_pool_act
from .pooling.max_pool_bn_act.op import MaxPoolBatchNormAct2d, max_pool_bn_act
from .randomness import share_randomness
from .replace import ReplaceReport, replace_modules
from .shakedrop.draws import linear_keep_probability
from .shakedrop.module import ShakeDrop
from .shakedrop.op import shakedrop
from .shakedrop.shakedrop_bn_shortcut.op import ShakeDropTail, shakedrop_bn_shortcut

__all__ = [
    "FLAT_BLOCK",
    "AddBatchNormAct2d",
    "BNActConv2d",
    "BatchNormAct2d",
    "ConvBNAct2d",
    "CrossEntropyLoss",
    "Dropout",
    "FlatScalar",
    "FlatTable",
    "ForkBatchNormAct2d",
    "GlobalAvgPoolAct2d",
    "MaxPoolBatchNormAct2d",
    "ReplaceReport",
    "ShakeDrop",
    "ShakeDropTail",
    "add_batch_norm_act",
    "batch_norm_act",
    "bn_act_conv2d",
    "bn_act_conv2d_for_norm",
    "bn_act_conv2d_stats",
    "conv2d",
    "conv2d_bn_act",
    "conv2d_stats",
    "cross_entropy",
    "dropout",
    "flat_adagrad_step",
    "flat_adam_step",
    "flat_adamax_step",
    "flat_adamw_step",
    "flat_asam_norm",
    "flat_clip",
    "flat_ema",
    "flat_grad_norm",
    "flat_lookahead",
    "flat_nadam_step",
    "flat_perturb",
    "flat_rmsprop_step",
    "flat_scalars",
    "flat_sgd_step",
    "flat_table",
    "fork_batch_norm_act",
    "fork_bn_act_conv2d_for_norm",
    "fork_bn_act_conv2d_stats",
    "global_avg_pool_act",
    "linear_keep_probability",
    "max_pool_bn_act",
    "replace_modules",
    "shakedrop",
    "shakedrop_bn_shortcut",
    "shakedrop_bn_shortcut_for_norm",
    "shakedrop_bn_shortcut_stats",
    "share_randomness",
]
