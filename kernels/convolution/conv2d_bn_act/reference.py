"""Convolution, batch norm and activation in plain torch: the truth that the kernels are tested against."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.activations import activate
from ...batch_norm.batch_norm_act.reference import batch_norm_act_reference


def conv2d_bn_act_reference(
    x: Tensor,
    conv_weight: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    act: str = "relu",
    negative_slope: float = 0.01,
    **norm: Any,
) -> Tensor:
    """``act(BN(conv(x)) [+ residual])``; arguments, result and updated buffers are those of ``conv2d_bn_act``.

    Nothing is checked. Every step rounds to x's dtype; fp64 stays fp64.
    """
    y = F.conv2d(x, conv_weight, stride=stride, padding=padding)
    return activate(batch_norm_act_reference(y, act="identity", **norm), act, negative_slope)
