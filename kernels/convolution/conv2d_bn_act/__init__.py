"""Convolution, batch norm, activation: the unit of post-activation networks."""

from .module import ConvBNAct2d
from .op import conv2d_bn_act

__all__ = ["ConvBNAct2d", "conv2d_bn_act"]
