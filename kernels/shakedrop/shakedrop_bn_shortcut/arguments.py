"""Checks of what ``shakedrop_bn_shortcut`` takes beside a batch norm; messages begin with the argument's name."""

from torch import Tensor

from ...layout import check_strided


def check_shortcut(x: Tensor, h: Tensor) -> None:
    """Raise a ValueError if x cannot be the shortcut of h [N, C, H, W]."""
    check_strided("x", x)
    n, channels, height, width = h.shape
    if n == 0:
        raise ValueError(f"h must be [N, C, H, W] with no empty dimension, got {list(h.shape)}")
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


def check_true_channels(true_channels: int | None, h: Tensor) -> int:
    """Raise a ValueError if h cannot have so many channels that are not padding; return how many it has."""
    channels = h.shape[1]
    if true_channels is None:
        return channels
    if isinstance(true_channels, bool) or not isinstance(true_channels, int) or not 1 <= true_channels <= channels:
        raise ValueError(f"true_channels must be from 1 to h's {channels} channels, got {true_channels!r}")
    return true_channels
