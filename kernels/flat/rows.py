"""Walking over flat buffers with torch ops, a piece that fits in a CPU's cache at a time."""

from collections.abc import Iterator

from torch import Tensor

from .table import FLAT_BLOCK

_ROWS = 128


def pieces(length: int) -> Iterator[tuple[slice, slice]]:
    """Yield (elements, blocks) of consecutive pieces: ``_ROWS`` whole blocks, then the rest, then a partial block."""
    whole = length // FLAT_BLOCK
    for first in range(0, whole, _ROWS):
        last = min(first + _ROWS, whole)
        yield slice(first * FLAT_BLOCK, last * FLAT_BLOCK), slice(first, last)
    if length % FLAT_BLOCK:
        yield slice(whole * FLAT_BLOCK, length), slice(whole, whole + 1)


def rows(buffer: Tensor, elements: slice, blocks: slice) -> Tensor:
    """A piece of a buffer as [blocks, elements of a block]."""
    return buffer[elements].view(blocks.stop - blocks.start, -1)


def column(settings: Tensor, index: int, blocks: slice, like: Tensor) -> Tensor:
    """One setting of the piece's blocks as [blocks, 1] in the dtype of ``like``."""
    return settings[blocks, index : index + 1].to(like.dtype)


def active_rows(settings: Tensor | None, blocks: slice) -> Tensor | None:
    """Which blocks are not frozen, [blocks, 1]; None: all."""
    return None if settings is None else settings[blocks, :1] != 0
