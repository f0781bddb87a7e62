"""What callers pass to the ops that start with a batch norm: checked, and as kernels read it; what runs them."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..layout import check_strided
from .activations import ACTIVATIONS

if TYPE_CHECKING:
    from .state import BatchNormState

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a batch norm's statistics of x, and of sums over it."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_batch_norm(
    x: Tensor,
    state: "BatchNormState",
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str = "identity",
    negative_slope: float = 0.0,
    name: str = "x",
) -> None:
    """Raise a ValueError that begins with the name of the argument that does not fit; ``name`` is what the caller calls
    x.
    """
    running_mean, running_var, count = state.running_mean, state.running_var, state.num_batches_tracked
    _check_input(name, x, training)
    if (weight is None) != (bias is None):
        raise ValueError("bias must be given with weight, or neither")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_var must be given with running_mean, or neither")
    if running_mean is None and not training:
        raise ValueError("running_mean must be given when training is False")
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    _check_vectors(vectors, x, name)
    _check_count(count, x, name)
    if state.momentum is None and training and running_mean is not None and count is None:
        raise ValueError("num_batches_tracked must be given for a cumulative average (momentum=None)")
    check_momentum(state.momentum)
    check_settings(state.eps, act, negative_slope)


def check_statistics(statistics: Tensor | None, x: Tensor, training: bool) -> None:
    """Raise a ValueError if these cannot be x's statistics [3, C]; None can."""
    if statistics is None:
        return
    if not training:
        raise ValueError("statistics must be None when training is False: the running ones are used")
    check_strided("statistics", statistics)
    shape, dtype = (3, x.shape[1]), statistics_dtype(x)
    if statistics.shape != shape or statistics.dtype != dtype or statistics.device != x.device:
        found = f"{list(statistics.shape)} {statistics.dtype} on {statistics.device}"
        raise ValueError(f"statistics must be {list(shape)} {dtype} on {x.device}, got {found}")
    if statistics.requires_grad:
        raise ValueError("statistics must not require a gradient: x's goes through them")


def check_residual(residual: Tensor, x: Tensor, name: str = "residual", of: str = "x") -> None:
    """The residual must have the shape, dtype and device of ``x``; the caller calls them ``name`` and ``of``."""
    check_strided(name, residual)
    if residual.shape != x.shape:
        raise ValueError(f"{name} must have the shape of {of} {list(x.shape)}, got {list(residual.shape)}")
    if residual.dtype != x.dtype:
        raise ValueError(f"{name} must have the dtype of {of} {x.dtype}, got {residual.dtype}")
    if residual.device != x.device:
        raise ValueError(f"{name} must be on the device of {of} {x.device}, got {residual.device}")


def check_momentum(momentum: float | None) -> None:
    """A number in [0, 1], or None for a cumulative average."""
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1] or be None, got {momentum}")


def check_settings(eps: float, act: str, negative_slope: float) -> None:
    """Check the settings that need no tensor."""
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if not 0 <= negative_slope < float("inf"):
        raise ValueError(f"negative_slope must be finite and at least 0, got {negative_slope}")


def _check_input(name: str, x: Tensor, training: bool) -> None:
    check_strided(name, x)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"{name} must be [N, C, H, W] with C, H and W at least 1, got {list(x.shape)}")
    if x.dtype not in _DTYPES:
        raise ValueError(f"{name} must be float32, bfloat16, float16 or float64, got {x.dtype}")
    if training and x.shape[0] * x.shape[2] * x.shape[3] < 2:
        raise ValueError(f"{name} must have more than one value per channel in training, got {list(x.shape)}")


def _check_vectors(vectors: dict[str, Tensor | None], x: Tensor, of: str) -> None:
    shape, device = x.shape[1:2], x.device
    allowed = (x.dtype,) if x.dtype == torch.float64 else (torch.float32, x.dtype)
    first = None
    for name, vector in vectors.items():
        if vector is None:
            continue
        check_strided(name, vector)
        if vector.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} for {of} {list(x.shape)}, got {list(vector.shape)}")
        if vector.dtype not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise ValueError(f"{name} must be {wanted} where {of} is {x.dtype}, got {vector.dtype}")
        first = first or vector.dtype
        if vector.dtype != first:
            raise ValueError(f"{name} must have the other parameters' dtype {first}, got {vector.dtype}")
        if vector.device != device:
            raise ValueError(f"{name} must be on the device of {of} {device}, got {vector.device}")
        if name.startswith("running") and (vector.requires_grad or not vector.is_contiguous()):
            raise ValueError(f"{name} must be contiguous and must not require a gradient")


def _check_count(num_batches_tracked: Tensor | None, x: Tensor, of: str) -> None:
    if num_batches_tracked is None:
        return
    check_strided("num_batches_tracked", num_batches_tracked)
    if num_batches_tracked.dim() != 0 or num_batches_tracked.dtype != torch.int64:
        found = f"{list(num_batches_tracked.shape)} {num_batches_tracked.dtype}"
        raise ValueError(f"num_batches_tracked must be [] int64, got {found}")
    if num_batches_tracked.device != x.device:
        wanted = f"the device of {of} {x.device}"
        raise ValueError(f"num_batches_tracked must be on {wanted}, got {num_batches_tracked.device}")
