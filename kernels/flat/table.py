"""The segment table: where each parameter lies in the flat buffers and how it is updated.

Every segment begins at a multiple of ``FLAT_BLOCK`` elements, so a block has one row of settings and a kernel's program
reads that row once: the pass over the buffers stays a pure stream. Elements between a segment's end and the next
multiple are padding. They must be zero in every buffer, and every op keeps them so wherever it matters.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import names_misfits

FLAT_BLOCK = 1024
SETTINGS = 3  # lr_scale, weight_decay, l2


class FlatTable(NamedTuple):
    """Segments of flat buffers, made by ``flat_table``.

    Args:
        settings: [blocks, 3] fp32 on the buffers' device; a block's lr_scale, weight_decay and l2.
        offsets: first element of each segment.
        lengths: elements of each segment, without padding.
    """

    settings: Tensor
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def length(self) -> int:
        """Elements of a buffer, padding included. Buffers may also end anywhere in the last block."""
        return self.settings.shape[0] * FLAT_BLOCK


@names_misfits
def flat_table(
    lengths: Sequence[int],
    *,
    weight_decay: float | Sequence[float] = 0.0,
    l2: float | Sequence[float] = 0.0,
    lr_scale: float | Sequence[float] = 1.0,
    device: torch.device | str = "cpu",
) -> FlatTable:
    """Lay segments out one after another, each from a multiple of ``FLAT_BLOCK`` elements on.

    Args:
        lengths: elements of each segment, at least one each.
        weight_decay: per step, one number or one for each segment; coupled or decoupled is the optimizer's choice.
        l2: c of a penalty c·Σw², one number or one for each segment; its gradient 2·c·w is added to the segment's.
        lr_scale: factor on the learning rate, one number or one for each segment. 0 freezes the segment: its weights
            and state keep their bits, it does not count in norms and is not perturbed.
        device: of the buffers.

    Raises:
        ValueError: no segment, an empty one, a number of settings that is not the number of segments, or a setting
            that is negative or not finite.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths must be one or more numbers, each at least 1, got {list(lengths)}")
    columns = [
        _per_segment(name, values, len(lengths))
        for name, values in (("lr_scale", lr_scale), ("weight_decay", weight_decay), ("l2", l2))
    ]
    blocks = [-(-length // FLAT_BLOCK) for length in lengths]
    first_blocks = [sum(blocks[:i]) for i in range(len(blocks))]
    rows = torch.tensor(columns, dtype=torch.float64).t().repeat_interleave(torch.tensor(blocks), dim=0)
    settings = rows.to(torch.float32).contiguous().to(device)
    return FlatTable(settings, tuple(first * FLAT_BLOCK for first in first_blocks), tuple(lengths))


def settings_of(table: FlatTable | None) -> Tensor | None:
    """The rows of a table, if there is one, as the ops take them."""
    return None if table is None else table.settings


def _per_segment(name: str, values: float | Sequence[float], segments: int) -> list[float]:
    numbers = [float(values)] * segments if isinstance(values, int | float) else [float(value) for value in values]
    if len(numbers) != segments:
        raise ValueError(f"{name} must be one number or {segments}, one for each segment, got {len(numbers)}")
    for number in numbers:
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {number}")
    return numbers
