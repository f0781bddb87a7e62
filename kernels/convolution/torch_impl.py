"""The convolution ops as torch's convolution and ``batch_norm_act``: on a CPU, and on a GPU where that is faster.

On a GPU the convolution is cuDNN's and batch norm with activation is op ``batch_norm_act`` with its own choice of
backend. So nothing is fused into a convolution: its input and its output are in memory, rounded, and statistics,
``act(BN(x))`` and their gradients are passes over them. An activated input is not kept for the backward but recomputed.
The functions are those of ``triton_impl``; ``op`` is the name of the op that calls.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch_norm.arguments import runs_torch
from ..batch_norm.batch_norm_act import torch_impl as batch_norm_torch
from ..batch_norm.fork_batch_norm_act import torch_impl as fork_torch
from ..batch_norm.norm import Norm
from ..batch_norm.state import BatchNormState


def conv2d_stats_fwd(op: str, x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return y and its moments [2, K], for which y is read again."""
    y = _conv2d(x, weight, stride, padding)
    return y, _moments(y)


def conv2d_bwd(
    op: str, dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, need_dx: bool, need_dw: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight; empty where not needed."""
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [need_dx, need_dw, False]
    )
    return _channels_last(dx) if need_dx else x.new_empty(0), _channels_last(dw) if need_dw else x.new_empty(0)


def bn_act_conv2d_fwd(
    op: str, x: Tensor, weight: Tensor, norm: Norm, stride: int, padding: int, with_moments: bool
) -> tuple[Tensor, Tensor]:
    """Return y and, if asked for, its moments [2, K] (else empty).

    ``act(BN(x))`` is written, read by the convolution and dropped.
    """
    y = _conv2d(_activated(x, norm), weight, stride, padding)
    return y, _moments(y) if with_moments else norm.statistics.new_empty(0)


def bn_act_conv2d_for_norm_fwd(
    op: str, x: Tensor, weight: Tensor, norm: Norm, next_norm: BatchNormState, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Return y and its statistics [3, K], for which y is read again; the running ones of ``next_norm`` are updated."""
    y = _conv2d(_activated(x, norm), weight, stride, padding)
    return y, _batch_norm(y).batch_norm_statistics(y, *next_norm.arguments())


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
    """
    # the activated input is recomputed; the gradient of z alone does not need its values
    z = _activated(x, norm) if need_dw else x
    dz, dw = conv2d_bwd(op, dy, z, weight, stride, padding, need_dx, need_dw)
    if not need_dx:
        return dz, dw, norm.statistics.new_empty(0), norm.statistics.new_empty(0)
    arguments = (x, norm.statistics, norm.weight, norm.bias)
    settings = (norm.training, norm.act, norm.negative_slope)
    if other is not None:
        dx, d_weight, d_bias = _fork(x).fork_batch_norm_act_bwd(dz, other, *arguments, *settings)
    else:
        dx, d_weight, d_bias, _ = _batch_norm(x).batch_norm_act_bwd(dz, *arguments, None, False, *settings)
    return dx, dw, d_weight, d_bias


def conv2d_bn_act_fwd(
    op: str, x: Tensor, weight: Tensor, norm: Norm, residual: Tensor | None, eps: float, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return z, y, BN's statistics [3, K] and y's moments [2, K] (empty in eval).

    In training two passes follow the convolution, for the statistics and for z; in eval one.
    """
    y = _conv2d(x, weight, stride, padding)
    stats, moments = norm.statistics.clone(), norm.statistics.new_empty(0)
    if norm.training:
        mean, low, rstd = _batch_norm(y).batch_norm_statistics(y, None, None, None, 0.0, 0.0)
        moments = torch.stack([mean, rstd**-2])
        stats = torch.stack([mean, low, 1 / (moments[1] + eps).sqrt()])
    z = _batch_norm(y).batch_norm_act_fwd(y, stats, norm.weight, norm.bias, residual, norm.act, norm.negative_slope)
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
    y = _conv2d(x, weight, stride, padding)
    stats = _batch_norm(y).batch_norm_statistics(y, *own.arguments())
    z = _batch_norm(y).batch_norm_act_fwd(y, stats, norm.weight, norm.bias, residual, norm.act, norm.negative_slope)
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
    dy, d_weight, d_bias, d_residual = _batch_norm(y).batch_norm_act_bwd(
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
    """``act(BN(conv(x)) [+ residual])`` for given statistics: a convolution, whose output is rounded, and one pass that
    normalises, adds and activates. Only Triton's kernel folds BN into the convolution.
    """
    return _activated(_conv2d(x, weight, stride, padding), norm, residual)


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
    mean, var = moments
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if running_mean is not None and running_var is not None:
        factor: Tensor | float | None = momentum
        if factor is None:
            assert num_batches_tracked is not None
            factor = 1 / num_batches_tracked.to(mean.dtype)
        running_mean.copy_((1 - factor) * running_mean + factor * mean)
        running_var.copy_((1 - factor) * running_var + factor * var * (pixels / max(pixels - 1, 1)))
    return torch.stack([mean, torch.zeros_like(mean), 1 / (var + eps).sqrt()])


def _batch_norm(x: Tensor) -> ModuleType:
    """The implementation of ``batch_norm_act`` for x."""
    if runs_torch("batch_norm_act", x):
        return batch_norm_torch
    from ..batch_norm.batch_norm_act import triton_impl  # not at the top: it needs triton

    return triton_impl


def _fork(x: Tensor) -> ModuleType:
    """The implementation of ``fork_batch_norm_act`` for x."""
    if runs_torch("fork_batch_norm_act", x):
        return fork_torch
    from ..batch_norm.fork_batch_norm_act import triton_impl  # not at the top: it needs triton

    return triton_impl


def _activated(x: Tensor, norm: Norm, residual: Tensor | None = None) -> Tensor:
    forward = _batch_norm(x).batch_norm_act_fwd
    return forward(x, norm.statistics, norm.weight, norm.bias, residual, norm.act, norm.negative_slope)


def _moments(y: Tensor) -> Tensor:
    """Mean and biased variance [2, C] over batch and image."""
    mean, low, rstd = _batch_norm(y).batch_norm_statistics(y, None, None, None, 0.0, 0.0)
    return torch.stack([mean + low, rstd**-2])


def _conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return _channels_last(F.conv2d(_channels_last(x), _channels_last(weight), stride=stride, padding=padding))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
