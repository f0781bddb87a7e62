"""Triton kernel of lookahead and the function that launches it."""

import triton
import triton.language as tl
from torch import Tensor

from .. import triton_common as common
from ..triton_common import launch, lerp, load, store


@triton.jit
def flat_lookahead_kernel(
    master_ptr,  # [P] fp32
    slow_ptr,  # [P] fp32
    scalars_ptr,  # [len(FlatScalar)] fp64
    copy_ptr,  # [P] or None
    n,
    alpha,
    one_minus_alpha,
    every,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where STEP is a multiple of ``every``: ``slow = slow + α (w − slow)``, ``w = slow``, ``copy = slow``."""
    step = tl.load(scalars_ptr + common.STEP).to(tl.int64)
    skip = tl.load(scalars_ptr + common.SKIP) != 0
    if (step % every == 0) & (skip == 0):
        offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        w = load(master_ptr, offsets, n, EVEN)
        slow = load(slow_ptr, offsets, n, EVEN)
        slow = lerp(slow, w, alpha, one_minus_alpha)
        store(slow_ptr, offsets, slow, n, EVEN)
        store(master_ptr, offsets, slow, n, EVEN)
        if copy_ptr is not None:
            store(copy_ptr, offsets, slow, n, EVEN)


def flat_lookahead(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None, alpha: float, every: int
) -> None:
    """Where STEP is a multiple of ``every``: ``slow ← slow + alpha (w − slow)``, ``w ← slow``, ``copy ← slow``."""
    n = master.shape[0]
    launch("flat_lookahead", flat_lookahead_kernel, n, master, slow, scalars, copy, n, alpha, 1 - alpha, every)
