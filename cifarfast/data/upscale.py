"""Bilinear upscaling in integer arithmetic, so that the pixels are the same on every machine and library version."""

import numpy as np


def _weights(source: int, target: int) -> np.ndarray:
    """Integer interpolation weights ``[target, source]``, each row summing to 2·target (half-pixel centres)."""
    weights = np.zeros((target, source), np.int64)
    unit = 2 * target
    for row in range(target):
        # centre of the target pixel in source pixels, times 2·target, clamped to the outer centres
        centre = min(max((2 * row + 1) * source - target, 0), (source - 1) * unit)
        left, rest = divmod(centre, unit)
        weights[row, left] += unit - rest
        weights[row, min(left + 1, source - 1)] += rest
    return weights


def upscale(values: np.ndarray, size: int, *, maximum: int) -> np.ndarray:
    """Upscale integers in ``[0, maximum]`` to ``size``×``size`` pixels and stretch them to 0…255.

    ``out = round(255 / maximum · (A · values · Aᵀ))`` with the bilinear matrix ``A`` ``[size, source]``, halves up.

    Args:
        values: integers ``[N, source, source]`` with ``source <= size``.
        size: height and width of the result.
        maximum: the value that becomes 255.

    Returns:
        uint8 ``[N, size, size]``.
    """
    weights = _weights(values.shape[1], size)
    total = weights @ values.astype(np.int64) @ weights.T
    divisor = 4 * size * size * maximum
    return ((2 * 255 * total + divisor) // (2 * divisor)).astype(np.uint8)
