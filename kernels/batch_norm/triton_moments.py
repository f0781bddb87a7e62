"""The moments of each chunk of rows, and the batch statistics that the last program makes of them."""

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..last_block import LOADS_IN_FLIGHT, REDUCE_TILE, is_last_block, take_counters
from .state import BatchNormState

if TYPE_CHECKING:
    from .triton_statistics import Schedule


@triton.jit
def welford(x, origin, ok, mean, m2, k):
    """``mean += (d − mean) / k; m2 += (d − mean_before) (d − mean)`` with ``d = x − origin``, for each row apart.

    Taking the origin off first makes d exact where |mean| ≫ std.
    """
    d = x - origin
    before = tl.where(ok, d - mean, 0.0)
    mean += before * (1.0 / k)
    return mean, m2 + before * (d - mean)


@triton.jit
def combine(mean, m2, weights, n):
    """Mean and ``Σ (d − mean)²`` of all rows of a tile together, from those of each of them and their numbers."""
    total = tl.div_rn(tl.sum(mean * weights, axis=0), n.to(tl.float32))
    difference = mean - total[None, :]
    return total, tl.sum(m2 + weights * difference * difference, axis=0)


@triton.jit
def store_moments(
    partials_ptr,  # [2, n_chunks, C] fp32
    mean,  # [BLOCK_M, BLOCK_C]
    m2,  # [BLOCK_M, BLOCK_C]
    first,  # row of the chunk
    n_rows,
    rows_per_program,
    chunk,
    n_chunks,
    channels,
    cols,
    col_ok,
    BLOCK_M: tl.constexpr,
):
    """Combine what ``welford`` gathered for each of the tile's rows, and store it as the chunk's."""
    present = tl.minimum(n_rows - first, rows_per_program)
    weights = (tl.maximum(present - tl.arange(0, BLOCK_M) + BLOCK_M - 1, 0) // BLOCK_M).to(tl.float32)[:, None]
    total, spread = combine(mean, m2, weights, present)
    out = chunk * channels + cols
    tl.store(partials_ptr + out, total, mask=col_ok)
    tl.store(partials_ptr + n_chunks * channels + out, spread, mask=col_ok)


@triton.jit
def finish_moments(
    partials_ptr,  # [2, n_chunks, C] fp32
    x_ptr,  # [M, C], whose row 0 was stored before the last program was counted
    stats_ptr,  # [3, C] fp32
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    count_ptr,  # [] int64 or None
    counter_ptr,
    n_rows,
    rows_per_program,
    n_chunks,
    channels,
    cols,
    col_ok,
    momentum,
    eps,
    CUMULATIVE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """From the moments of all chunks, by the last program of a block of channels: what ``store_statistics`` stores.

    Of BLOCK_P lanes each adds up every BLOCK_P-th chunk, in one pass, from its own first chunk's mean μ on:
    ``S = Σ n_i (mean_i − μ)``, ``m2 = Σ (m2_i + n_i (mean_i − μ)²) − S²/n``. What cancels is bounded: that chunk alone
    has ``n_0 (μ − mean)² ≤ m2``, so ``S²/n ≤ k · m2`` for k chunks, and m2's relative error is a few k · 2⁻²⁴ at worst.
    """
    if is_last_block(counter_ptr, n_chunks):
        BLOCK_P: tl.constexpr = max(REDUCE_TILE // BLOCK_C, 1)
        lanes = tl.arange(0, BLOCK_P)
        ok = (lanes < n_chunks)[:, None] & col_ok[None, :]
        origin = tl.load(x_ptr + cols, mask=col_ok, other=0.0, cache_modifier=".cg").to(tl.float32)
        shift = tl.load(
            partials_ptr + lanes[:, None] * channels + cols[None, :], mask=ok, other=0.0, cache_modifier=".cg"
        )
        first = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        second = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        weights = tl.zeros([BLOCK_P], tl.float32)
        for start in tl.range(0, n_chunks, BLOCK_P * LOADS_IN_FLIGHT):
            for k in tl.static_range(LOADS_IN_FLIGHT):
                chunk = start + k * BLOCK_P + lanes
                ok = (chunk < n_chunks)[:, None] & col_ok[None, :]
                pointers = partials_ptr + chunk[:, None] * channels + cols[None, :]
                mean = tl.load(pointers, mask=ok, other=0.0, cache_modifier=".cg")
                m2 = tl.load(pointers + n_chunks * channels, mask=ok, other=0.0, cache_modifier=".cg")
                n = tl.maximum(tl.minimum(n_rows - chunk * rows_per_program, rows_per_program), 0).to(tl.float32)
                difference = mean - shift
                weighted = n[:, None] * difference
                weights += n
                first += weighted
                second += m2 + weighted * difference
        moved = first * tl.div_rn(1.0, tl.maximum(weights, 1.0))[:, None]
        mean, m2 = combine(shift + moved, second - first * moved, weights[:, None], n_rows)
        var = tl.div_rn(m2, n_rows.to(tl.float32))

        high = origin + mean
        part = high - origin
        low = (origin - (high - part)) + (mean - part)
        store_statistics(
            high,
            low,
            var,
            tl.div_rn(m2, (n_rows - 1).to(tl.float32)),
            stats_ptr,
            running_mean_ptr,
            running_var_ptr,
            count_ptr,
            tl.program_id(0) % tl.cdiv(channels, BLOCK_C) == 0,
            channels,
            cols,
            col_ok,
            momentum,
            eps,
            CUMULATIVE,
        )


@triton.jit
def store_statistics(
    mean,  # [BLOCK_C]
    low,  # [BLOCK_C]: the mean's part below its rounding
    var,  # [BLOCK_C], biased
    unbiased,  # [BLOCK_C], the variance
    stats_ptr,  # [3, C] fp32
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    count_ptr,  # [] int64 or None
    counts,  # whether it is this block of channels that counts
    channels,
    cols,
    col_ok,
    momentum,
    eps,
    CUMULATIVE: tl.constexpr,
):
    """Store the rows of stats, ``mean, low, 1/√(var + ε)``; ``running = (1 − m) running + m (mean, unbiased)`` with
    m = momentum, or 1/count if CUMULATIVE; otherwise ``count += 1``.
    """
    tl.store(stats_ptr + cols, mean, mask=col_ok)
    tl.store(stats_ptr + channels + cols, low, mask=col_ok)
    tl.store(stats_ptr + 2 * channels + cols, tl.div_rn(1.0, tl.sqrt_rn(var + eps)), mask=col_ok)
    if CUMULATIVE:
        momentum = 1.0 / tl.load(count_ptr).to(tl.float32)
    elif count_ptr is not None and counts:
        tl.store(count_ptr, tl.load(count_ptr) + 1)
    if running_mean_ptr is not None:
        old_mean = tl.load(running_mean_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)
        old_var = tl.load(running_var_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)
        new_mean = (1.0 - momentum) * old_mean + momentum * mean
        new_var = (1.0 - momentum) * old_var + momentum * unbiased
        tl.store(running_mean_ptr + cols, new_mean.to(running_mean_ptr.dtype.element_ty), mask=col_ok)
        tl.store(running_var_ptr + cols, new_var.to(running_var_ptr.dtype.element_ty), mask=col_ok)


def moments_arguments(x: Tensor, plan: "Schedule", norm: BatchNormState) -> tuple[Tensor, dict[str, Any]]:
    """The statistics [3, C] that a kernel with ``finish_moments`` writes, and its arguments beside matrix and tile."""
    channels = x.shape[1]
    stats = x.new_empty(3, channels, dtype=torch.float32)
    counters, first_counter = take_counters(plan.column_blocks, x.device)
    return stats, {
        "partials_ptr": stats.new_empty(2, plan.n_chunks, channels),
        "stats_ptr": stats,
        "counters_ptr": counters,
        "n_rows": plan.n_rows,
        "n_groups": plan.n_groups,
        "rows_per_program": plan.rows_per_program,
        "n_chunks": plan.n_chunks,
        "first_counter": first_counter,
        **norm.kernel_arguments(),
    }
