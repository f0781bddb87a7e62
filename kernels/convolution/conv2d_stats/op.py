"""``conv2d_stats``: a convolution that also returns its output's statistics; torch op, its autograd, the function."""

from typing import Any

import torch
from torch import Tensor

from ... import backend
from ...batch_norm.arguments import runs_plain_torch
from ..arguments import (
    check_convolution,
    double_backward,
    empty_gradients,
    empty_output,
    implementation,
    statistics_dtype,
)
from .reference import conv2d_stats_reference

_OP = "conv2d_stats"

backend.register(_OP, "triton", "torch", package=__package__)


def conv2d_stats(
    x: Tensor, weight: Tensor, *, stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A convolution without bias, and the mean and variance of each channel of its output.

    ``y = conv2d(x, weight)``, ``mean_k = Σ y[:, k] / M``, ``var_k = Σ (y[:, k] − mean_k)² / M`` over the M = N·P·Q
    pixels of the rounded y. The next op, ``bn_act_conv2d(y, …, statistics=(mean, var))``, need not read y for them.

    Args:
        x: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch), C a multiple of 8. channels_last is the fast layout; any
            other is copied to it first.
        weight: [K, C, 1, 1] or [K, C, 3, 3] in x's dtype, K a multiple of 8.
        stride: 1 or 2.
        padding: zeros around x.

    Returns:
        y [N, K, P, Q] in x's dtype, channels_last (plain torch on a CPU: torch's choice); mean and var [K], fp32.
        Products are added in fp32 and rounded once, sums have a fixed order. Gradients of all three go to x and weight.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, or an empty batch; the message begins with the
            argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Variances of tiles are joined by Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """
    stride, padding = check_convolution(x, "weight", weight, stride, padding)
    if runs_plain_torch(_OP, x):
        return conv2d_stats_reference(x, weight, stride=stride, padding=padding)
    y, moments = torch.ops.cifarfast.conv2d_stats(x, weight, stride, padding)
    return y, moments[0], moments[1]


@torch.library.custom_op("cifarfast::conv2d_stats", mutates_args=())
def _conv2d_stats(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    return implementation(_OP, x, weight).conv2d_stats_fwd(_OP, x, weight, stride, padding)


@_conv2d_stats.register_fake
def _conv2d_stats_fake(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    moments = x.new_empty(2, weight.shape[0], dtype=statistics_dtype(x))
    return empty_output(x, weight, stride, padding), moments


@torch.library.custom_op("cifarfast::conv2d_backward", mutates_args=())
def _conv2d_backward(
    dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, need_dx: bool, need_dw: bool
) -> tuple[Tensor, Tensor]:
    backward = implementation(_OP, x, weight).conv2d_bwd
    return backward(_OP, dy, x, weight, stride, padding, need_dx, need_dw)


@_conv2d_backward.register_fake
def _conv2d_backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, need_dx: bool, need_dw: bool
) -> tuple[Tensor, Tensor]:
    return empty_gradients(x, weight, need_dx, need_dw)


def moments_gradient(dy: Tensor | None, d_moments: Tensor | None, y: Tensor, mean: Tensor) -> Tensor | None:
    """The gradient of y with what comes through its moments: ``dy + (dmean + 2 dvar (y − mean)) / M``."""
    if d_moments is None:
        return dy
    pixels = y.numel() // y.shape[1]
    d_mean, d_var = (row[:, None, None] / pixels for row in d_moments)
    total = d_mean + 2 * d_var * (y.to(mean.dtype) - mean[:, None, None])
    return (total if dy is None else dy + total).to(y.dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, ctx.stride, ctx.padding = inputs
    y, moments = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, y, moments)


def _backward(ctx: Any, dy: Tensor | None, d_moments: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, y, moments = ctx.saved_tensors
    dy = moments_gradient(dy, d_moments, y, moments[0])
    if dy is None:
        return None, None, None, None
    need_dx, need_dw = ctx.needs_input_grad[:2]
    dx, dw = torch.ops.cifarfast.conv2d_backward(dy, x, weight, ctx.stride, ctx.padding, need_dx, need_dw)
    return dx if need_dx else None, dw if need_dw else None, None, None


_conv2d_stats.register_autograd(_backward, setup_context=_setup_context)
_conv2d_backward.register_autograd(double_backward)
