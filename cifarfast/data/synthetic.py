"""`synthetic`: made-up images whose class a small network can learn; the same for everyone, no file needed."""

import numpy as np
import torch

from ..errors import UserError, nearest
from ..random import Purpose, draw_bits
from .base import Dataset, Splits, make_dataset, require_size
from .upscale import upscale

DEFAULTS = {"classes": 10, "train": 2000, "test": 500, "size": 32, "channels": 3}
_ALLOWED: dict[str, range | tuple[int, ...]] = {
    "classes": range(2, 1001),
    "train": range(1, 1_000_001),
    "test": range(1, 1_000_001),
    "size": range(8, 257),
    "channels": (1, 3),
}
_GRID = 4  # a class's pattern is a 4×4 grid of random values, upscaled
_CHUNK = 4096  # samples made at a time
# Philox "epochs" of Purpose.SYNTHETIC
_PATTERNS, _TRAIN, _TEST = 0, 1, 2


def _parse(name: str) -> dict[str, int]:
    """The settings in ``synthetic[:key=value,…]``, defaults filled in."""
    settings = dict(DEFAULTS)
    _, colon, text = name.partition(":")
    for item in text.split(",") if colon else []:
        key, _, value = item.partition("=")
        if key not in settings:
            hint = nearest(key, settings)
            raise UserError(f"{name!r}: unknown setting {key!r}{hint}; known are {', '.join(settings)}")
        allowed = _ALLOWED[key]
        if not (value.isascii() and value.isdigit() and len(value) < 10) or int(value) not in allowed:
            span = f"{allowed[0]}…{allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
            raise UserError(f"{name!r}: {key} is {value!r}, allowed is {span}")
        settings[key] = int(value)
    return settings


def _bytes(count: int, per_item: int, first: int, epoch: int) -> np.ndarray:
    """Random bytes ``[count, per_item]`` for items ``first…first+count−1``, each drawn from its own counters."""
    groups = -(-per_item // 16)  # one draw gives four words of four bytes
    index = torch.arange(first * groups, (first + count) * groups)
    words = torch.stack(draw_bits(0, Purpose.SYNTHETIC, epoch, index), dim=1).numpy().astype("<u4")
    return words.view(np.uint8).reshape(count, groups * 16)[:, :per_item]


def _make_part(patterns: np.ndarray, count: int, epoch: int, source: str) -> Dataset:
    """``count`` samples with labels 0, 1, … in turn: ``clip(128 + a·(shifted pattern − 128) + noise)``.

    ``a`` is uniform in [0.5, 1.5), the cyclic shift uniform in −2…2 pixels a side, the noise triangular in ±127.
    """
    num_classes, size, _, channels = patterns.shape
    labels = np.arange(count) % num_classes
    images = np.empty((count, size, size, channels), np.uint8)
    pixels = size * size * channels
    for first in range(0, count, _CHUNK):
        part = slice(first, min(first + _CHUNK, count))
        n = part.stop - part.start
        drawn = _bytes(n, 3 + 2 * pixels, first, epoch)
        contrast = 128 + drawn[:, 0].astype(np.int32)[:, None, None, None]
        rows, columns = ((np.arange(size) + drawn[:, k, None].astype(np.int32) % 5 - 2) % size for k in (1, 2))
        shifted = patterns[labels[part, None, None], rows[:, :, None], columns[:, None, :]].astype(np.int32)
        noise = drawn[:, 3 : 3 + pixels].astype(np.int32) - drawn[:, 3 + pixels :]
        values = 128 + (shifted - 128) * contrast // 256 + noise.reshape(shifted.shape) // 2
        images[part] = values.clip(0, 255)
    return make_dataset(images, labels, _classes(num_classes), official=False, source=source)


def _classes(count: int) -> tuple[str, ...]:
    return tuple(f"pattern {label}" for label in range(count))


def synthetic_classes(name: str) -> tuple[str, ...]:
    """The class names of ``synthetic[:key=value,…]``."""
    return _classes(_parse(name)["classes"])


def load_synthetic(name: str, image_size: int | None = None) -> Splits:
    """``synthetic`` or ``synthetic:key=value,…`` with keys classes, train, test, size, channels (see ``DEFAULTS``).

    Every class is one random low-frequency pattern; a sample is its class's pattern, shifted, with another contrast and
    noise. All draws are Philox under key 0, so the images do not depend on the run's seed.

    Raises:
        UserError: an unknown setting or a value outside its range, or an ``image_size`` that differs from ``size``.
    """
    settings = _parse(name)
    require_size(name, image_size, settings["size"])
    classes, size, channels = settings["classes"], settings["size"], settings["channels"]
    grids = _bytes(classes, channels * _GRID * _GRID, 0, _PATTERNS).reshape(classes * channels, _GRID, _GRID)
    patterns = upscale(grids, size, maximum=255).reshape(classes, channels, size, size).transpose(0, 2, 3, 1)
    train = _make_part(patterns, settings["train"], _TRAIN, name)
    return Splits(name, train, None, _make_part(patterns, settings["test"], _TEST, name))
