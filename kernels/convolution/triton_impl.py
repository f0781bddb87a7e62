"""The convolution ops with Triton kernels: which kernels make up which op."""

import torch
import triton
from torch import Tensor

from ..batch_norm.batch_norm_act.triton_impl import batch_norm_act_bwd, batch_norm_act_fwd
from ..batch_norm.fork_batch_norm_act.triton_impl import forked_input_gradient
from ..batch_norm.norm import Norm
from ..batch_norm.state import BatchNormState
from ..batch_norm.triton_backward import input_gradient
from ..batch_norm.triton_sums import as_parameters
from .tiles import geometry
from .triton_launch import channels_last, conv_dgrad, conv_fwd, conv_wgrad
from .triton_reduce import conv_running_kernel

BLOCK_CHANNELS = 128


def conv2d_stats_fwd(op: str, x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return y and its moments [2, K]."""
    g = geometry(x.shape, weight.shape, stride, padding)
    moments = x.new_empty(2, g.k, dtype=torch.float32)
    return conv_fwd(op, x, weight, g, moments=moments), moments


def conv2d_bwd(
    op: str, dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, need_dx: bool, need_dw: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight; empty where not needed."""
    g = geometry(x.shape, weight.shape, stride, padding)
    dx = conv_dgrad(op, dy, weight, g)[0] if need_dx else x.new_empty(0)
    dw = conv_wgrad(op, x, dy, g) if need_dw else x.new_empty(0)
    return dx, dw


def bn_act_conv2d_fwd(
    op: str, x: Tensor, weight: Tensor, norm: Norm, stride: int, padding: int, with_moments: bool
) -> tuple[Tensor, Tensor]:
    """Return y and, if asked for, its moments [2, K] (else empty)."""
    g = geometry(x.shape, weight.shape, stride, padding)
    moments = norm.statistics.new_empty((2, g.k) if with_moments else 0)
    return conv_fwd(op, x, weight, g, prologue=norm, moments=moments if with_moments else None), moments


def bn_act_conv2d_for_norm_fwd(
    op: str, x: Tensor, weight: Tensor, norm: Norm, next_norm: BatchNormState, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Return y and its statistics [3, K]; the running ones of ``next_norm`` are updated."""
    g = geometry(x.shape, weight.shape, stride, padding)
    stats = norm.statistics.new_empty(3, g.k)
    return conv_fwd(op, x, weight, g, prologue=norm, y_stats=stats, next_norm=next_norm), stats


def bn_act_conv2d_bwd(
    op: str,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    norm: Norm,
    stride: int,
    padding: int,
    need_dx: bool,
    need_dw: bool,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (plus ``other``), the convolution's weight, BN's weight and bias; empty where not needed or not
    there.

    ``need_dx`` is about BN's weight and bias too.
    """
    g = geometry(x.shape, weight.shape, stride, padding)
    # ops must not return one tensor twice
    dx, d_weight, d_bias = x.new_empty(0), norm.statistics.new_empty(0), norm.statistics.new_empty(0)
    if need_dx:
        alone = not norm.training and other is None
        dx, sum_da, sum_da_x = conv_dgrad(op, dy, weight, g, x=x, norm=norm, frozen=alone)
        assert sum_da is not None
        assert sum_da_x is not None
        if not alone:
            dx = _input_gradient(dx, channels_last(x), norm, other, sum_da, sum_da_x)
        d_weight, d_bias = as_parameters(sum_da, sum_da_x, norm.weight)
    dw = conv_wgrad(op, x, dy, g, norm) if need_dw else x.new_empty(0)
    return dx, dw, d_weight, d_bias


def _input_gradient(
    da: Tensor, x: Tensor, norm: Norm, other: Tensor | None, sum_da: Tensor, sum_da_x: Tensor
) -> Tensor:
    """From da to x's gradient, and ``other`` added to it."""
    affine = (x, norm.statistics, norm.weight, norm.bias)
    settings = (norm.training, "identity", 0.0)
    if other is None:
        return input_gradient(da, affine, sum_da, sum_da_x, *settings)
    return forked_input_gradient(da, other, affine, sum_da, sum_da_x, *settings)


def conv2d_bn_act_fwd(
    op: str, x: Tensor, weight: Tensor, norm: Norm, residual: Tensor | None, eps: float, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return z, y, BN's statistics [3, K] and y's moments [2, K] (empty in eval).

    In training ``norm.statistics`` is not read.
    """
    g = geometry(x.shape, weight.shape, stride, padding)
    if norm.training:
        moments, stats = norm.statistics.new_empty(2, g.k), norm.statistics.new_empty(3, g.k)
        own = BatchNormState(None, None, None, 0.0, eps)
        y = conv_fwd(op, x, weight, g, moments=moments, y_stats=stats, next_norm=own)
    else:
        moments, stats = (
            norm.statistics.new_empty(0),
            norm.statistics.clone(),
        )  # ops must not return what they were given
        y = conv_fwd(op, x, weight, g)
    z = batch_norm_act_fwd(y, stats, norm.weight, norm.bias, residual, norm.act, norm.negative_slope)
    return z, y, stats, moments


def conv2d_bn_act_running_fwd(
    op: str,
    x: Tensor,
    weight: Tensor,
    norm: Norm,
    own: BatchNormState,
    residual: Tensor | None,
    stride: int,
    padding: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, y and BN's statistics [3, K] in training; its running statistics, of ``own``, are updated.

    ``norm.statistics`` is not read.
    """
    g = geometry(x.shape, weight.shape, stride, padding)
    stats = norm.statistics.new_empty(3, g.k)
    y = conv_fwd(op, x, weight, g, y_stats=stats, next_norm=own)
    z = batch_norm_act_fwd(y, stats, norm.weight, norm.bias, residual, norm.act, norm.negative_slope)
    return z, y, stats


def conv2d_bn_act_bwd(
    op: str,
    dz: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    norm: Norm,
    saved: Tensor | None,
    has_residual: bool,
    stride: int,
    padding: int,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the convolution's weight, BN's weight and bias, the residual as ``batch_norm_act_bwd`` has it.

    Empty where not needed or not there.
    """
    dy, d_weight, d_bias, d_residual = batch_norm_act_bwd(
        dz,
        y,
        norm.statistics,
        norm.weight,
        norm.bias,
        saved,
        has_residual,
        norm.training,
        norm.act,
        norm.negative_slope,
    )
    return *conv2d_bwd(op, dy, x, weight, stride, padding, need_dx, need_dw), d_weight, d_bias, d_residual


def conv2d_bn_act_folded(
    op: str, x: Tensor, weight: Tensor, norm: Norm, residual: Tensor | None, stride: int, padding: int
) -> Tensor:
    """``act(BN(conv(x)) [+ residual])`` in one kernel."""
    g = geometry(x.shape, weight.shape, stride, padding)
    return conv_fwd(op, x, weight, g, fold=norm, residual=residual)


def statistics_from_moments(
    moments: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    pixels: int,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """BN's statistics [3, C]; the running ones are updated."""
    channels = moments.shape[1]
    stats = moments.new_empty(3, channels)
    norm = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    with torch.cuda.device_of(moments):
        conv_running_kernel[(triton.cdiv(channels, BLOCK_CHANNELS),)](
            moments,
            stats,
            channels=channels,
            unbias=pixels / max(pixels - 1, 1),
            **norm.kernel_arguments(),
            BLOCK_C=BLOCK_CHANNELS,
            num_warps=4,
        )
    return stats
