"""Batch norm, activation, convolution: the unit of pre-activation networks."""

from .for_norm import bn_act_conv2d_for_norm, fork_bn_act_conv2d_for_norm
from .fork import fork_bn_act_conv2d_stats
from .module import BNActConv2d
from .op import bn_act_conv2d, bn_act_conv2d_stats

__all__ = [
    "BNActConv2d",
    "bn_act_conv2d",
    "bn_act_conv2d_for_norm",
    "bn_act_conv2d_stats",
    "fork_bn_act_conv2d_for_norm",
    "fork_bn_act_conv2d_stats",
]
