"""The moving average of a flat buffer with torch ops."""

from torch import Tensor

from ..rows import number
from ..scalars import FlatScalar


def flat_ema(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """``ema ← ema + (1 − EMA_DECAY)(w − ema)``."""
    ema.lerp_(master, number(1 - scalars[FlatScalar.EMA_DECAY], ema.dtype))
