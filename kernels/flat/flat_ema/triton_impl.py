"""Triton kernel of the moving average and the function that launches it."""

import triton
import triton.language as tl
from torch import Tensor

from .. import triton_common as common
from ..triton_common import launch, lerp, load, store


@triton.jit
def flat_ema_kernel(
    ema_ptr,  # [P] fp32
    master_ptr,  # [P] fp32
    scalars_ptr,  # [len(FlatScalar)] fp64
    n,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``ema = ema + (1 − d)(w − ema)``, d = EMA_DECAY."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ema = load(ema_ptr, offsets, n, EVEN)
    w = load(master_ptr, offsets, n, EVEN)
    decay = tl.load(scalars_ptr + common.EMA_DECAY)
    store(ema_ptr, offsets, lerp(ema, w, (1 - decay).to(tl.float32), decay.to(tl.float32)), n, EVEN)


def flat_ema(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """``ema ← ema + (1 − EMA_DECAY)(w − ema)``."""
    n = master.shape[0]
    launch("flat_ema", flat_ema_kernel, n, ema, master, scalars, n)
