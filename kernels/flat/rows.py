"""Walking over flat buffers with torch ops.

On a CPU a piece is a run of blocks with equal settings, as long as the cache bears, and its settings and the scalars
are Python numbers: torch's vectorised loops want those. Elsewhere reading them would wait for the device, so they stay
tensors, and a piece is all whole blocks or the partial one at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .table import FLAT_BLOCK

Number = float | Tensor
_BLOCKS_IN_CACHE = 128


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of all buffers, with their settings: numbers, or [blocks, 1]."""

    elements: slice
    rows: int
    lr_scale: Number = 1.0
    weight_decay: Number = 0.0
    l2: Number = 0.0

    def of(self, buffer: Tensor) -> Tensor:
        """This piece of a buffer, [rows, elements of a block] or [1, elements]; a view."""
        return buffer[self.elements].view(self.rows, -1)

    @property
    def frozen(self) -> bool | Tensor:
        """Whether lr_scale is 0."""
        return self.lr_scale == 0


def pieces(length: int, settings: Tensor | None, device: torch.device, dtype: torch.dtype) -> Iterator[Piece]:
    """Cut ``length`` elements of buffers on a device into pieces; without settings no piece is frozen."""
    blocks = -(-length // FLAT_BLOCK)
    if not readable(device):
        yield from _tensor_pieces(length, settings, dtype)
        return
    bounds, rows = [0, blocks], [[1.0, 0.0, 0.0]]
    if settings is not None:
        changes = (settings[1:] != settings[:-1]).any(dim=1).nonzero().flatten() + 1
        bounds = [0, *changes.tolist(), blocks]
        rows = settings[bounds[:-1]].tolist()
    for first, last, row in zip(bounds[:-1], bounds[1:], rows, strict=True):
        for block in range(first, last, _BLOCKS_IN_CACHE):
            stop = min(block + _BLOCKS_IN_CACHE, last) * FLAT_BLOCK
            yield Piece(slice(block * FLAT_BLOCK, min(stop, length)), 1, *row)


def _tensor_pieces(length: int, settings: Tensor | None, dtype: torch.dtype) -> Iterator[Piece]:
    whole = length // FLAT_BLOCK
    for first, last, stop in ((0, whole, whole * FLAT_BLOCK), (whole, whole + 1, length)):
        start = first * FLAT_BLOCK
        if start < stop:
            columns = () if settings is None else settings[first:last].to(dtype).split(1, dim=1)
            yield Piece(slice(start, stop), last - first, *columns)


def number(scalar: Tensor, dtype: torch.dtype) -> Number:
    """A 0-d tensor's value where that can be read at once, elsewhere the tensor in ``dtype``."""
    return scalar.item() if readable(scalar.device) else scalar.to(dtype)


def readable(device: torch.device) -> bool:
    """Whether reading a value waits for nothing."""
    return device.type == "cpu"
