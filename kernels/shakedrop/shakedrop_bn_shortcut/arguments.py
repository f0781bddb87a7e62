"""Checks of what callers pass to ``shakedrop_bn_shortcut``; every message begins with the argument's name."""

import torch
from torch import Tensor

from ...layout import check_strided

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_tensors(h: Tensor, x: Tensor, by_batch: bool) -> None:
    """Raise a ValueError if h or x cannot be the tail's inputs."""
    check_strided("h", h)
    check_strided("x", x)
    if h.dim() != 4 or 0 in h.shape:
        raise ValueError(f"h must be [N, C, H, W] with no empty dimension, got {list(h.shape)}")
    if h.dtype not in _DTYPES:
        raise ValueError(f"h must be float32, bfloat16, float16 or float64, got {h.dtype}")
    n, channels, height, width = h.shape
    if by_batch and n * height * width < 2:
        raise ValueError(f"h must have more than one value per channel for statistics, got {list(h.shape)}")
    for what in ("dtype", "device"):
        if getattr(x, what) != getattr(h, what):
            raise ValueError(f"x must have h's {what} {getattr(h, what)}, got {getattr(x, what)}")
    if x.dim() != 4 or x.shape[0] != n:
        raise ValueError(f"x must be [{n}, C_in, H_in, W_in] for h {list(h.shape)}, got {list(x.shape)}")
    if not 1 <= x.shape[1] <= channels:
        raise ValueError(f"x must have from 1 to {channels} channels for h {list(h.shape)}, got {list(x.shape)}")
    pooled = x.shape[2] in (2 * height - 1, 2 * height) and x.shape[3] in (2 * width - 1, 2 * width)
    if x.shape[2:] != h.shape[2:] and not pooled:
        raise ValueError(f"x must have the sides of h {list(h.shape)} or twice those, got {list(x.shape)}")


def check_batch_norm(
    h: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    num_batches_tracked: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> None:
    """Raise a ValueError if the batch norm's arguments do not fit h."""
    if (weight is None) != (bias is None):
        raise ValueError("bias must be given with weight, or neither")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_var must be given with running_mean, or neither")
    buffers = {"running_mean": running_mean, "running_var": running_var}
    for name, vector in {**buffers, "weight": weight, "bias": bias}.items():
        if vector is not None:
            _check_vector(name, vector, h)
    for name, buffer in buffers.items():
        if buffer is not None and (buffer.requires_grad or not buffer.is_contiguous()):
            raise ValueError(f"{name} must be contiguous and must not require a gradient")
    if num_batches_tracked is not None:
        check_strided("num_batches_tracked", num_batches_tracked)
        if num_batches_tracked.dtype != torch.int64 or num_batches_tracked.dim() != 0:
            found = f"{num_batches_tracked.dtype} {list(num_batches_tracked.shape)}"
            raise ValueError(f"num_batches_tracked must be int64 [], got {found}")
        if num_batches_tracked.device != h.device:
            raise ValueError(f"num_batches_tracked must be on h's device {h.device}, got {num_batches_tracked.device}")
    if momentum is None and training and running_mean is not None and num_batches_tracked is None:
        raise ValueError("num_batches_tracked must be given for a cumulative average (momentum=None)")
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1] or be None, got {momentum}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be finite and at least 0, got {eps}")


def check_true_channels(true_channels: int | None, h: Tensor) -> int:
    """Raise a ValueError if h cannot have so many channels that are not padding; return how many it has."""
    channels = h.shape[1]
    if true_channels is None:
        return channels
    if isinstance(true_channels, bool) or not isinstance(true_channels, int) or not 1 <= true_channels <= channels:
        raise ValueError(f"true_channels must be from 1 to h's {channels} channels, got {true_channels!r}")
    return true_channels


def _check_vector(name: str, vector: Tensor, h: Tensor) -> None:
    check_strided(name, vector)
    if vector.shape != h.shape[1:2]:
        raise ValueError(f"{name} must be [{h.shape[1]}] for h {list(h.shape)}, got {list(vector.shape)}")
    allowed = (h.dtype,) if h.dtype == torch.float64 else (torch.float32, h.dtype)
    if vector.dtype not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(str, allowed))} for {h.dtype} h, got {vector.dtype}")
    if vector.device != h.device:
        raise ValueError(f"{name} must be on h's device {h.device}, got {vector.device}")
