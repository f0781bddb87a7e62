"""The statistics of a batch norm's input where the op that made it has them: checked, and what an op makes of them."""

from torch import Tensor

from ..convolution.arguments import statistics_dtype
from ..convolution.moments import as_moments, moments_statistics
from ..layout import check_strided
from .batch_norm_act.op import statistics as batch_norm_statistics
from .batch_norm_act.op import writable
from .state import Statistics


def check_statistics(statistics: Statistics, x: Tensor, training: bool) -> None:
    """Raise a ValueError if these cannot be x's."""
    if not training:
        raise ValueError("statistics must be None when training is False: the running ones are used")
    channels = x.shape[1]
    if isinstance(statistics, Tensor):
        _check(statistics, (3, channels), x, "mean and variance, or ")
        if statistics.requires_grad:
            raise ValueError("statistics must not require a gradient: x's goes through them")
        return
    if len(statistics) != 2:
        raise ValueError(f"statistics must be mean and variance, got {len(statistics)} tensors")
    for row in statistics:
        _check(row, (channels,), x, "two of ")


def _check(statistics: Tensor, shape: tuple[int, ...], x: Tensor, number: str) -> None:
    check_strided("statistics", statistics)
    dtype = statistics_dtype(x)
    if statistics.shape != shape or statistics.dtype != dtype or statistics.device != x.device:
        found = f"{list(statistics.shape)} {statistics.dtype} on {statistics.device}"
        raise ValueError(f"statistics must be {number}{list(shape)} {dtype} on {x.device}, got {found}")


def buffers_to_update(
    statistics: Statistics | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What is left to update: nothing where who gives [3, C] did."""
    return (None, None, None) if isinstance(statistics, Tensor) else (running_mean, running_var, num_batches_tracked)


def statistics_of(
    x: Tensor,
    given: Statistics | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """The statistics [3, C] that normalise x, from its mean and variance where they are given; in training the running
    ones are updated, unless who gives [3, C] did that.
    """
    if isinstance(given, Tensor):
        return given
    if given is None:
        return batch_norm_statistics(x, running_mean, running_var, num_batches_tracked, training, momentum, eps)
    running_mean, running_var, momentum = writable(x, running_mean, running_var, momentum)
    buffers = (running_mean, running_var, num_batches_tracked)
    return moments_statistics(as_moments(*given), *buffers, x.numel() // x.shape[1], momentum, eps)
