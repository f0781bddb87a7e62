"""Channel statistics of uint8 images."""

import torch
from torch import Tensor


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units of 0…1 pixels.

    Args:
        images: uint8 [N, H, W, C].

    Returns:
        ``(mean, std)``, C floats each, from exact integer counts (the same on every device). A channel that is
        constant has std 1, so that dividing by it is harmless.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[3]):
        counts = torch.bincount(images[..., channel].flatten(), minlength=256).cpu().double()
        counts /= counts.sum()
        mean = (counts * values).sum()
        std = (counts * (values - mean) ** 2).sum().sqrt()
        means.append(mean.item())
        stds.append(std.item() or 1.0)
    return tuple(means), tuple(stds)
