"""Convolution, batch norm and activation in plain torch: the truth that the kernels are tested against.

Nothing is checked. Every step rounds to x's dtype; fp64 stays fp64.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..batch_norm.activations import activate
from ..batch_norm.batch_norm_act.reference import batch_norm_act_reference


def bn_act_conv2d_reference(
    x: Tensor, conv_weight: Tensor, *, stride: int = 1, padding: int = 0, **settings: Any
) -> Tensor:
    """``conv(act(BN(x)))``; arguments, result and updated buffers are those of ``bn_act_conv2d`` without options."""
    return F.conv2d(_batch_norm_act(x, **settings), conv_weight, stride=stride, padding=padding)


def conv2d_bn_act_reference(
    x: Tensor, conv_weight: Tensor, *, stride: int = 1, padding: int = 0, **settings: Any
) -> Tensor:
    """``act(BN(conv(x)) [+ residual])``; arguments, result and updated buffers are those of ``conv2d_bn_act``."""
    return _batch_norm_act(F.conv2d(x, conv_weight, stride=stride, padding=padding), **settings)


def _batch_norm_act(x: Tensor, *, act: str = "relu", negative_slope: float = 0.01, **norm: Any) -> Tensor:
    return activate(batch_norm_act_reference(x, act="identity", **norm), act, negative_slope)
