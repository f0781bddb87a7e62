"""The statistics of a batch norm's input where the op that made it has them: checked, and what an op makes of them."""

import torch
from torch import Tensor

from ..conv_bn_act.arguments import statistics_dtype
from ..conv_bn_act.moments import moments_statistics


def check_statistics(statistics: tuple[Tensor, Tensor], x: Tensor, training: bool) -> None:
    """Raise a ValueError if these cannot be mean and variance of x."""
    if not training:
        raise ValueError("statistics must be None when training is False: the running ones are used")
    if len(statistics) != 2:
        raise ValueError(f"statistics must be mean and variance, got {len(statistics)} tensors")
    for row in statistics:
        if row.shape != x.shape[1:2] or row.dtype != statistics_dtype(x) or row.device != x.device:
            wanted = f"[{x.shape[1]}] {statistics_dtype(x)} on {x.device}"
            raise ValueError(f"statistics must be two of {wanted}, got {list(row.shape)} {row.dtype} on {row.device}")


def statistics_of_given(
    statistics: tuple[Tensor, Tensor],
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """The statistics [3, C] that normalise x, from its mean and variance; the running ones are updated."""
    pixels = x.numel() // x.shape[1]
    return moments_statistics(
        _as_rows(*statistics), running_mean, running_var, num_batches_tracked, pixels, momentum, eps
    )


def _as_rows(mean: Tensor, var: Tensor) -> Tensor:
    """[2, C] without a gradient; the tensor itself, where both are the rows of one."""
    base = None if torch.compiler.is_compiling() else mean._base
    if base is not None and base is var._base and base.shape == (2, *mean.shape) and base.is_contiguous():
        first = base.storage_offset()
        if (mean.storage_offset(), var.storage_offset()) == (first, first + len(mean)):
            return base.detach()
    return torch.stack([mean.detach(), var.detach()])
