"""Batch norm, activation and their gradients in closed form with torch ops: the op's implementation without Triton."""

import torch
from torch import Tensor

from ...dropout.draws import NO_DROPOUT, Dropping, drop
from ..activations import activate, through_activation
from ..norm import Norm
from ..state import BatchNormState


def batch_norm_statistics(x: Tensor, state: BatchNormState) -> Tensor:
    """Return mean, the mean's part below its rounding, and rstd as [3, C]; update the running statistics."""
    running_mean, running_var, num_batches_tracked = state.running_mean, state.running_var, state.num_batches_tracked
    wide = _wide(x)
    shift = wide[0, :, 0, 0]
    shifted = wide - _per_channel(shift)
    var, offset = torch.var_mean(shifted, dim=(0, 2, 3), correction=0)
    mean = shift + offset
    part = mean - shift
    low = (shift - (mean - part)) + (offset - part)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if running_mean is not None and running_var is not None:
        n = x.numel() // x.shape[1]
        if state.momentum is None:
            assert num_batches_tracked is not None
            factor = 1 / num_batches_tracked.to(wide.dtype)
        else:
            factor = torch.full((), state.momentum, dtype=wide.dtype, device=x.device)
        running_mean.copy_((1 - factor) * running_mean.to(wide.dtype) + factor * mean)
        running_var.copy_((1 - factor) * running_var.to(wide.dtype) + factor * var * (n / (n - 1)))
    return torch.stack([mean, low, 1 / (var + state.eps).sqrt()])


def running_statistics(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    """The statistics [3, C] of running mean and variance, in fp32 or fp64."""
    dtype = torch.float64 if running_mean.dtype == torch.float64 else torch.float32
    mean = running_mean.to(dtype)
    return torch.stack([mean, torch.zeros_like(mean), 1 / (running_var.to(dtype) + eps).sqrt()])


def batch_norm_act(x: Tensor, norm: Norm, residual: Tensor | None = None, dropping: Dropping = NO_DROPOUT) -> Tensor:
    """``drop(act(z))``, channels_last, with ``z = (x − mean) · rstd · weight + bias [+ residual]``."""
    z = pre_activation(x, norm, residual)
    y = drop(activate(z, norm.act, norm.negative_slope), dropping)
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last)


def batch_norm_act_backward(
    grad: Tensor,
    x: Tensor,
    norm: Norm,
    saved: Tensor | None = None,
    has_residual: bool = False,
    dropping: Dropping = NO_DROPOUT,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and, where it is not ``grad`` itself, the residual; empty where there is none.

    ``other`` is added to that of x.
    """
    act, slope = norm.act, norm.negative_slope
    dz = drop(grad.to(norm.statistics.dtype), dropping)
    if act == "relu" and has_residual:
        assert saved is not None
        dz = through_activation(dz, saved, act, slope)
    elif act != "identity":
        z = pre_activation(x, norm, saved)
        dz = through_activation(dz, z, act, slope, z.to(x.dtype))
    grad_residual = x.new_empty(0)
    if has_residual and (act != "identity" or dropping.seed is not None):
        grad_residual = dz.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return *input_gradients(dz, x, norm.statistics, norm.weight, norm.training, other), grad_residual


def pre_activation(x: Tensor, norm: Norm, residual: Tensor | None = None) -> Tensor:
    """``(x − mean) · rstd · weight + bias [+ residual]`` in the statistics' dtype."""
    z = _normalized(x, norm.statistics)
    if norm.weight is not None and norm.bias is not None:
        z = z * _per_channel(norm.weight) + _per_channel(norm.bias)
    return z if residual is None else z + residual


def input_gradients(
    dz: Tensor, x: Tensor, statistics: Tensor, weight: Tensor | None, training: bool, addend: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (channels_last), weight and bias from that of the pre-activation; the last two may be empty.

    ``dx = rstd · weight · (dz − (Σ dz + x̂ Σ dz·x̂) / M) [+ addend]`` in training, ``rstd · weight · dz [+ addend]`` in
    eval.
    """
    normalized = _normalized(x, statistics)
    d_bias, d_weight = dz.sum(dim=(0, 2, 3)), (dz * normalized).sum(dim=(0, 2, 3))
    if training:
        n = x.numel() // x.shape[1]
        dz = dz - (_per_channel(d_bias) + normalized * _per_channel(d_weight)) / n
    scale = statistics[2] if weight is None else statistics[2] * weight
    dx = dz * _per_channel(scale)
    if addend is not None:
        dx = dx + addend
    dx = dx.to(x.dtype).contiguous(memory_format=torch.channels_last)
    if weight is None:
        return dx, d_weight.new_empty(0), d_bias.new_empty(0)
    return dx, d_weight.to(weight.dtype), d_bias.to(weight.dtype)


def _normalized(x: Tensor, statistics: Tensor) -> Tensor:
    mean, low, rstd = (_per_channel(row) for row in statistics)
    return ((x.to(statistics.dtype) - mean) - low) * rstd


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _per_channel(vector: Tensor) -> Tensor:
    """[C] as [C, 1, 1], to broadcast with [N, C, H, W]."""
    return vector[:, None, None]
