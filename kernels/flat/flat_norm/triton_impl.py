"""The Triton kernel of the norm over flat buffers: partial sums, which the last program adds up in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...last_block import is_last_block, take_counters
from ...tuning.tables import tile
from ..triton_common import COLUMNS, ROW, load

FINISH_BLOCK = tl.constexpr(1024)


@triton.jit(do_not_specialize=["first_counter"])
def flat_norm_kernel(
    grad_ptr,  # [P]
    weight_ptr,  # [P] or None
    settings_ptr,  # [blocks, 3] fp32 or None
    partial_ptr,  # [programs] fp32
    norm_ptr,  # [] fp32
    counters_ptr,
    n,
    first_counter,
    eta,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
    REPEATS: tl.constexpr,
):
    """``norm = √Σ x²`` with x = g, or (|w| + eta) · g; frozen blocks count nothing.

    A program adds up REPEATS · BLOCK elements, and the last one all programs' sums in fp64.
    """
    start = tl.program_id(0).to(tl.int64) * (BLOCK * REPEATS)
    total = tl.zeros([BLOCK], tl.float32)
    for repeat in tl.static_range(REPEATS):
        first = start + repeat * BLOCK
        offsets = first + tl.arange(0, BLOCK)
        x = load(grad_ptr, offsets, n, EVEN)
        if weight_ptr is not None:
            x *= tl.abs(load(weight_ptr, offsets, n, EVEN)) + eta
        if settings_ptr is not None:
            lr_scale = tl.load(settings_ptr + first // ROW * COLUMNS, mask=first < n, other=0.0)
            x = tl.where(lr_scale != 0, x, 0.0)
        total += x * x
    tl.store(partial_ptr + tl.program_id(0), tl.sum(total, axis=0))

    programs = tl.num_programs(0)
    if is_last_block(counters_ptr + first_counter, programs):
        index = tl.arange(0, FINISH_BLOCK)
        norm = tl.zeros([FINISH_BLOCK], tl.float64)
        done = 0
        while done < programs:
            ok = done + index < programs
            norm += tl.load(partial_ptr + done + index, mask=ok, other=0.0, cache_modifier=".cg").to(tl.float64)
            done += FINISH_BLOCK
        tl.store(norm_ptr, tl.sqrt(tl.sum(norm, axis=0)).to(tl.float32))


def flat_norm(grad: Tensor, weight: Tensor | None, settings: Tensor | None, eta: float) -> Tensor:
    """``√Σ g²``, or with a weight ``√Σ ((|w| + eta) g)²``, over blocks whose lr_scale is not 0; fp32."""
    n = grad.shape[0]
    tiles = tile("flat_norm", n, grad.device)
    span = tiles["block"] * tiles["repeats"]
    partial = grad.new_empty(triton.cdiv(n, span), dtype=torch.float32)
    norm = grad.new_empty((), dtype=torch.float32)
    counters, first_counter = take_counters(1, grad.device)
    with torch.cuda.device_of(grad):
        flat_norm_kernel[(partial.shape[0],)](
            grad,
            weight,
            settings,
            partial,
            norm,
            counters,
            n,
            first_counter,
            eta,
            EVEN=n % span == 0,
            BLOCK=tiles["block"],
            REPEATS=tiles["repeats"],
            num_warps=tiles["num_warps"],
        )
    return norm
