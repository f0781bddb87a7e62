"""The same image in two parts of a data set, found by a hash of its pixels."""

import hashlib

import torch
from torch import Tensor


def pixel_hashes(images: Tensor) -> list[bytes]:
    """16 bytes of the SHA-256 of each image's pixels; uint8 ``[N, H, W, C]`` on any device."""
    pixels = images.cpu().contiguous().numpy()
    return [hashlib.sha256(image.data).digest()[:16] for image in pixels]


def also_in(images: Tensor, others: Tensor) -> Tensor:
    """Which images have exactly the pixels of one of the others, bool ``[N]`` on the CPU; uint8 ``[N, H, W, C]`` each.

    Images of different shapes are different.
    """
    if images.shape[1:] != others.shape[1:]:
        return torch.zeros(len(images), dtype=torch.bool)
    known = set(pixel_hashes(others))
    return torch.tensor([each in known for each in pixel_hashes(images)], dtype=torch.bool)
