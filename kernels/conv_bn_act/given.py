"""The statistics of a batch norm's input where the op that made it has them: checked, and what an op makes of them."""

from torch import Tensor

from ..batch_norm_act.op import statistics as batch_norm_statistics
from ..layout import check_strided
from .arguments import statistics_dtype
from .moments import as_moments, moments_statistics


def check_statistics(statistics: tuple[Tensor, Tensor], x: Tensor, training: bool) -> None:
    """Raise a ValueError if these cannot be mean and variance of x."""
    if not training:
        raise ValueError("statistics must be None when training is False: the running ones are used")
    if len(statistics) != 2:
        raise ValueError(f"statistics must be mean and variance, got {len(statistics)} tensors")
    for row in statistics:
        check_strided("statistics", row)
        if row.shape != x.shape[1:2] or row.dtype != statistics_dtype(x) or row.device != x.device:
            wanted = f"[{x.shape[1]}] {statistics_dtype(x)} on {x.device}"
            raise ValueError(f"statistics must be two of {wanted}, got {list(row.shape)} {row.dtype} on {row.device}")


def statistics_of(
    x: Tensor,
    given: tuple[Tensor, Tensor] | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """The statistics [3, C] that normalise x, from its mean and variance where they are given; in training the running
    ones are updated."""
    buffers = (running_mean, running_var, num_batches_tracked)
    if given is None:
        return batch_norm_statistics(x, *buffers, training, momentum, eps)
    return moments_statistics(as_moments(*given), *buffers, x.numel() // x.shape[1], momentum, eps)
