"""Sample buffers that the specs of the flat ops share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..testing.spec import Inputs, OpSpec, SampleMaker, Tolerance
from .table import FLAT_BLOCK, FlatTable, flat_table

LONGEST = 1 << 40
_PERIOD = 1 << 16


def sample_table(make: SampleMaker, lengths: list[int], lr_scale: float | list[float] = 1.0) -> FlatTable:
    """A table on the maker's device."""
    return flat_table(lengths, lr_scale=lr_scale, device=make.device)


def flat_spec(name: str, **description: Any) -> OpSpec:
    """The spec of an op over flat buffers: without a gradient, and one row of tiles serves buffers of any length."""
    return OpSpec(
        name=name,
        compiled_ops=(f"cifarfast::{name}",),
        differentiable=(),
        tile_size=lambda inputs: LONGEST,
        forward_tolerance=Tolerance(ulps=4.0, rms_ulps=4.0),
        **description,
    )


def settings_of(table: FlatTable | None) -> Tensor | None:
    """The rows of a table, if there is one, as the ops take them."""
    return None if table is None else table.settings


def large(values: Tensor, n: int) -> Tensor:
    """``values`` again and again up to n elements: drawing millions takes longer than any op here."""
    return values.repeat(-(-n // values.shape[0]))[:n].contiguous()


def large_normal(make: SampleMaker, n: int, **options: object) -> Tensor:
    """n normal values that repeat after 65,536."""
    return large(make.randn(_PERIOD, **options), n)  # type: ignore[arg-type]


def master_dtype(make: SampleMaker) -> torch.dtype:
    """Of the weights: fp32, or fp64 where the maker's is."""
    return torch.float64 if make.dtype == torch.float64 else torch.float32


def random_table(make: SampleMaker, draw_int: Callable[[int, int], int]) -> Inputs:
    """``n``, ``lengths`` and ``lr_scale`` of up to four segments, some of them frozen; the last block may be cut."""
    lengths = [draw_int(1, 1500) for _ in range(draw_int(1, 4))]
    lr_scale = [float(draw_int(0, 2)) for _ in lengths]
    return {"n": sample_table(make, lengths).length - draw_int(0, 1023), "lengths": lengths, "lr_scale": lr_scale}


def segments(buffer: Tensor | None, table: FlatTable) -> list[Tensor]:
    """Views of a buffer's segments, as torch's optimizers take them."""
    assert buffer is not None
    return [buffer[o : o + length] for o, length in zip(table.offsets, table.lengths, strict=True)]


def where_active(x: Tensor, table: FlatTable | None) -> Tensor:
    """x, with 0 in frozen segments."""
    if table is None:
        return x
    active = table.settings[:, 0] != 0
    return x.where(active.repeat_interleave(FLAT_BLOCK)[: x.shape[0]], 0.0)
