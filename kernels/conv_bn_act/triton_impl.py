"""The convolution ops with Triton kernels: which kernels make up which op."""

import torch
import triton
from torch import Tensor

from ..batch_norm_act.triton_backward import input_gradient
from ..batch_norm_act.triton_impl import batch_norm_act_bwd, batch_norm_act_fwd
from ..batch_norm_act.triton_sums import as_parameters, reduce_sums
from .norm import Norm
from .tiles import geometry
from .triton_launch import conv_dgrad, conv_fwd, conv_wgrad
from .triton_reduce import conv_affine_kernel, conv_moments_kernel, conv_running_kernel

BLOCK_TILES = 256
BLOCK_REDUCED_CHANNELS = 8
BLOCK_CHANNELS = 128


def conv2d_stats_fwd(op: str, x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return y and its moments [2, K]."""
    g = geometry(x.shape, weight.shape, stride, padding)
    y, partials, pixels = conv_fwd(op, x, weight, g, statistics=True)
    assert partials is not None
    moments, _ = _moments(partials, pixels, g.pixels)
    return y, moments


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
    y, partials, pixels = conv_fwd(
        op,
        x,
        weight,
        g,
        prologue=_affine(norm),
        act=norm.act,
        negative_slope=norm.negative_slope,
        statistics=with_moments,
    )
    if partials is None:
        return y, norm.stats.new_empty(0)
    return y, _moments(partials, pixels, g.pixels)[0]


def bn_act_conv2d_bwd(
    op: str, dy: Tensor, x: Tensor, weight: Tensor, norm: Norm, stride: int, padding: int, need_dx: bool, need_dw: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the convolution's weight, BN's weight and bias; empty where not needed or not there.

    ``need_dx`` is about BN's weight and bias too.
    """
    g = geometry(x.shape, weight.shape, stride, padding)
    affine = _affine(norm)
    # ops must not return one tensor twice
    dx, d_weight, d_bias = x.new_empty(0), norm.stats.new_empty(0), norm.stats.new_empty(0)
    if need_dx:
        dx, partials = conv_dgrad(
            op,
            dy,
            weight,
            g,
            x=x,
            affine=affine,
            frozen=not norm.training,
            act=norm.act,
            negative_slope=norm.negative_slope,
        )
        assert partials is not None
        with torch.cuda.device_of(x):
            sum_da, sum_da_x = reduce_sums(partials)
        if norm.training:
            x = x.contiguous(memory_format=torch.channels_last)
            bn = (x, norm.stats, norm.weight, norm.bias)
            dx = input_gradient(dx, bn, sum_da, sum_da_x, True, "identity", 0.0)
        d_weight, d_bias = as_parameters(sum_da, sum_da_x, norm.weight)
    dw = x.new_empty(0)
    if need_dw:
        dw = conv_wgrad(op, x, dy, g, affine=affine, act=norm.act, negative_slope=norm.negative_slope)
    return dx, dw, d_weight, d_bias


def conv2d_bn_act_fwd(
    op: str, x: Tensor, weight: Tensor, norm: Norm, residual: Tensor | None, eps: float, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return z, y, BN's statistics [3, K] and y's moments [2, K] (empty in eval).

    In training ``norm.stats`` is not read.
    """
    g = geometry(x.shape, weight.shape, stride, padding)
    y, partials, pixels = conv_fwd(op, x, weight, g, statistics=norm.training)
    stats, moments = norm.stats.clone(), norm.stats.new_empty(0)
    if partials is not None:
        moments, stats = _moments(partials, pixels, g.pixels, eps)
    z = batch_norm_act_fwd(y, stats, norm.weight, norm.bias, residual, norm.act, norm.negative_slope)
    return z, y, stats, moments


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
        dz, y, norm.stats, norm.weight, norm.bias, saved, has_residual, norm.training, norm.act, norm.negative_slope
    )
    return *conv2d_bwd(op, dy, x, weight, stride, padding, need_dx, need_dw), d_weight, d_bias, d_residual


def conv2d_bn_act_folded(
    op: str, x: Tensor, weight: Tensor, norm: Norm, residual: Tensor | None, stride: int, padding: int
) -> Tensor:
    """``act(BN(conv(x)) [+ residual])`` in one kernel."""
    g = geometry(x.shape, weight.shape, stride, padding)
    affine, slope = _affine(norm), norm.negative_slope
    return conv_fwd(op, x, weight, g, fold=affine, residual=residual, act=norm.act, negative_slope=slope)[0]


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
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    with torch.cuda.device_of(moments):
        conv_running_kernel[(triton.cdiv(channels, BLOCK_CHANNELS),)](
            moments,
            stats,
            running_mean,
            running_var,
            num_batches_tracked if momentum is None else None,
            channels,
            pixels / max(pixels - 1, 1),
            0.0 if momentum is None else momentum,
            eps,
            HAS_RUNNING=running_mean is not None,
            CUMULATIVE=momentum is None and running_mean is not None,
            BLOCK_C=BLOCK_CHANNELS,
            num_warps=4,
        )
    return stats


def _moments(partials: Tensor, pixels_per_tile: int, pixels: int, eps: float | None = None) -> tuple[Tensor, Tensor]:
    """Moments [2, C] of all tiles, and with ``eps`` BN's statistics [3, C] (else empty)."""
    _, n_tiles, channels = partials.shape
    moments = partials.new_empty(2, channels)
    stats = partials.new_empty(0 if eps is None else (3, channels))
    with torch.cuda.device_of(partials):
        conv_moments_kernel[(triton.cdiv(channels, BLOCK_REDUCED_CHANNELS),)](
            partials,
            moments,
            None if eps is None else stats,
            n_tiles,
            channels,
            pixels_per_tile,
            pixels,
            0.0 if eps is None else eps,
            HAS_STATS=eps is not None,
            BLOCK_T=BLOCK_TILES,
            BLOCK_C=BLOCK_REDUCED_CHANNELS,
            num_warps=4,
        )
    return moments, stats


def _affine(norm: Norm) -> Tensor:
    """The rows [5, C] that ``conv_affine_kernel`` makes."""
    channels = norm.stats.shape[1]
    affine = norm.stats.new_empty(5, channels)
    with torch.cuda.device_of(affine):
        conv_affine_kernel[(triton.cdiv(channels, BLOCK_CHANNELS),)](
            norm.stats,
            norm.weight,
            norm.bias,
            affine,
            channels,
            HAS_WEIGHT=norm.weight is not None,
            BLOCK_C=BLOCK_CHANNELS,
            num_warps=4,
        )
    return affine
