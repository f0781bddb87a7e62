"""Batch norm, activation, convolution: the unit of pre-activation networks."""

from .module import BNActConv2d
from .op import bn_act_conv2d

__all__ = ["BNActConv2d", "bn_act_conv2d"]
