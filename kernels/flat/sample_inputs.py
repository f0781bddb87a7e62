"""Sample buffers that the specs of the flat ops share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..testing.spec import Inputs, OpSpec, SampleMaker, Tolerance
from .table import FLAT_BLOCK, FlatTable, flat_table

LONGEST = 1 << 40
PERIOD = 1 << 16


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


def enlarged(inputs: Inputs, table: FlatTable) -> Inputs:
    """Inputs of PERIOD elements for a table: each buffer again and again up to its length, and the table where there is
    one; drawing millions takes longer than any op here."""
    found = {**inputs, "table": table} if "table" in inputs else dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.numel() == PERIOD:
            found[name] = value.repeat(-(-table.length // PERIOD))[: table.length].contiguous()
    return found


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
