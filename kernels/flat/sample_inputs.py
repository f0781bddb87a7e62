"""Sample buffers that the specs of the flat ops share."""

from torch import Tensor

from ..testing.spec import Inputs, SampleMaker
from .table import FlatTable, flat_table

LONGEST = 1 << 40
_PERIOD = 1 << 16


def sample_table(make: SampleMaker, lengths: list[int], lr_scale: float | list[float] = 1.0) -> FlatTable:
    """A table on the maker's device."""
    return flat_table(lengths, lr_scale=lr_scale, device=make.device)


def buffer_size(inputs: Inputs) -> int:
    """The size in the tuning table: one row serves buffers of any length."""
    return LONGEST


def large(values: Tensor, n: int) -> Tensor:
    """``values`` again and again up to n elements: drawing millions takes longer than any op here."""
    return values.repeat(-(-n // values.shape[0]))[:n].contiguous()


def large_normal(make: SampleMaker, n: int, **options: object) -> Tensor:
    """n normal values that repeat after 65,536."""
    return large(make.randn(_PERIOD, **options), n)  # type: ignore[arg-type]
