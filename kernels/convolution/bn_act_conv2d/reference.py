"""Batch norm, activation and convolution in plain torch: the truth that the kernels are tested against."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.activations import activate
from ...batch_norm.batch_norm_act.reference import batch_norm_act_reference


def bn_act_conv2d_reference(
    x: Tensor,
    conv_weight: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    act: str = "relu",
    negative_slope: float = 0.01,
    **norm: Any,
) -> Tensor:
    """``conv(act(BN(x)))``; arguments, result and updated buffers are those of ``bn_act_conv2d`` without options.

    Nothing is checked. Every step rounds to x's dtype; fp64 stays fp64.
    """
    z = batch_norm_act_reference(x, act="identity", **norm)
    return F.conv2d(activate(z, act, negative_slope), conv_weight, stride=stride, padding=padding)
