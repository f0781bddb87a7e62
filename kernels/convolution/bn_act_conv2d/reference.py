"""Batch norm, activation and convolution in plain torch: the truth that the kernels are tested against."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.activations import activate
from ...batch_norm.batch_norm_act.reference import batch_norm_act_reference
from ...batch_norm.state import Statistics


def bn_act_conv2d_reference(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    statistics: Statistics | None = None,
    act: str = "relu",
    negative_slope: float = 0.01,
    **settings: Any,
) -> Tensor:
    """``conv(act(BN(x)))``; arguments, result and updated buffers are those of ``bn_act_conv2d``.

    Nothing is checked. Every step rounds to x's dtype; fp64 stays fp64. Statistics that are given must be x's own: they
    are computed again.
    """
    z = batch_norm_act_reference(x, running_mean, running_var, weight, bias, act="identity", **settings)
    return F.conv2d(activate(z, act, negative_slope), conv_weight, stride=stride, padding=padding)
