"""``cifarfast::moments_statistics``: from the moments that a convolution's epilogue has to batch norm's statistics."""

import torch
from torch import Tensor

from ..batch_norm.arguments import runs_torch
from . import torch_impl


def as_moments(mean: Tensor, var: Tensor) -> Tensor:
    """Mean and variance as one tensor [2, C], detached: without a copy where they are the rows of one."""
    both = None if torch.compiler.is_compiling() else mean._base
    if both is not None and both is var._base and both.shape == (2, *mean.shape) and both.is_contiguous():
        rows = both.detach()
        if _same_memory(rows[0], mean) and _same_memory(rows[1], var):
            return rows
    return torch.stack([mean.detach(), var.detach()])


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.storage_offset() == b.storage_offset() and a.stride() == b.stride()


def moments_statistics(
    moments: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    pixels: int,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """BN's statistics [3, C] from mean and biased variance [2, C]; the running statistics are updated."""
    momentum = None if momentum is None else float(momentum)
    buffers = (running_mean, running_var, num_batches_tracked)
    return torch.ops.cifarfast.moments_statistics(moments, *buffers, pixels, momentum, float(eps))


@torch.library.custom_op(
    "cifarfast::moments_statistics", mutates_args=("running_mean", "running_var", "num_batches_tracked")
)
def _moments_statistics(
    moments: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    pixels: int,
    momentum: float | None,
    eps: float,
) -> Tensor:
    buffers = (running_mean, running_var, num_batches_tracked)
    if runs_torch("batch_norm_act", moments):
        return torch_impl.statistics_from_moments(moments, *buffers, pixels, momentum, eps)
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl.statistics_from_moments(moments, *buffers, pixels, momentum, eps)


@_moments_statistics.register_fake
def _moments_statistics_fake(
    moments: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    pixels: int,
    momentum: float | None,
    eps: float,
) -> Tensor:
    return moments.new_empty(3, moments.shape[1])
