"""``conv2d``: a convolution, and the statistics with which the batch norm after it normalises its output."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...arguments import names_misfits
from ...batch_norm.state import BUFFERS, BatchNormState
from ...library import Gradients, runs_plain_torch
from ..arguments import (
    Convolution,
    Needed,
    check_convolution,
    convolution_operator,
    empty_gradients,
    empty_output,
    empty_statistics,
    state_after,
)

_OP = "conv2d"


@names_misfits
def conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    next_norm: nn.BatchNorm2d | None = None,
) -> Any:
    """A convolution without bias: ``y = conv2d(x, weight)``; with ``next_norm`` also the statistics of y.

    ::

        y, statistics = conv2d(x, weight, next_norm=norm)
        z = batch_norm_act(y, norm.running_mean, norm.running_var, …, statistics=statistics, training=True)

    Args:
        x: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch), C a multiple of 8. channels_last is the fast layout; any
            other is copied to it first.
        weight: [K, C, 1, 1] or [K, C, 3, 3] in x's dtype, K a multiple of 8.
        stride: 1 or 2.
        padding: zeros around x.
        next_norm: the batch norm that normalises y, in training. Its running statistics are updated here, so pass
            the op that takes the statistics next_norm's own buffers and settings (it leaves the buffers alone), and let
            no other op normalise y with ``next_norm``.

    Returns:
        y [N, K, P, Q] in x's dtype, channels_last (plain torch on a CPU: torch's choice); with ``next_norm`` the tuple
        of y and its statistics [3, K] in fp32: the mean, its part below its rounding, and ``1/√(var + eps)``. On plain
        torch the statistics are None, and the op that normalises computes them and updates the running ones. Products
        are added in fp32 and rounded once, sums have a fixed order. Gradients go to x and weight.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, an empty batch, or next_norm is not in training
            or its buffers do not fit y; the message begins with the argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Variances of tiles are joined by Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """
    conv = check_convolution(x, "weight", weight, stride, padding)
    state = state_after(next_norm, x, weight, conv)
    if runs_plain_torch(_OP, x):
        y, statistics = F.conv2d(x, weight, stride=conv.stride, padding=conv.padding), None
    else:
        y, statistics = forward(x, weight, state, next_norm is not None, conv)
    return y if next_norm is None else (y, statistics)


@convolution_operator(_OP, mutates=BUFFERS, differentiable=1)
def forward(
    x: Tensor, weight: Tensor, next_norm: BatchNormState, wants_statistics: bool, conv: Convolution
) -> tuple[Tensor, Tensor]:
    return empty_output(x, weight, conv), empty_statistics(x, weight, wants_statistics)


@convolution_operator(f"{_OP}_backward")
def backward(x: Tensor, weight: Tensor, dy: Tensor, conv: Convolution, needed: Needed) -> tuple[Tensor, Tensor]:
    return empty_gradients(x, weight, needed)


@forward.backward(saves=lambda outputs, x, weight, next_norm, wants_statistics, conv: (x, weight, conv))
def _gradients(dy: Tensor, x: Tensor, weight: Tensor, conv: Convolution, *, needs: Any) -> Gradients:
    dx, dw = backward(x, weight, dy, conv, Needed(needs("x"), needs("weight")))
    return {"x": dx, "weight": dw}
