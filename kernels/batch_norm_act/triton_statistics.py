"""Triton kernels of the batch statistics, and how all kernels of this family share out an [M, C] matrix.

x is read as the row-major matrix [M, C] that channels_last storage is, M = N·H·W. A program takes a block of channels
and a chunk of consecutive rows, which it walks through tile by tile with asynchronous copies running ahead.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tuning import Tile, tile

# the finishing kernels: chunks and channels that a program takes at a time
REDUCE_CHUNKS = 256
REDUCE_CHANNELS = 8
REDUCE_WARPS = 4
_SIZES = ("n_rows", "n_groups", "rows_per_program", "n_chunks")
per_size = triton.jit(do_not_specialize=list(_SIZES))


@triton.jit
def share(n_groups, rows_per_program, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, LAST_FIRST: tl.constexpr = False):
    """This program's share: number of channels, its channels and which exist, its chunk and the chunk's first row.

    LAST_FIRST begins at the end of the matrix: what was written last is still in the L2 cache, and what a reduction
    reads last is what the pass after it reads first.
    """
    channels = n_groups * ALIGN
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    if LAST_FIRST:
        program = tl.num_programs(0) - 1 - program
    cols = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    chunk = program // blocks
    return channels, cols, cols < channels, chunk, chunk * rows_per_program


@triton.jit
def load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE: tl.constexpr):
    """The batch norm of these channels, rows [1, BLOCK_C]: mean, 1/σ and x̂'s offset, scale and shift of the result."""
    mean = tl.load(stats_ptr + cols, mask=col_ok, other=0.0)
    low = tl.load(stats_ptr + channels + cols, mask=col_ok, other=0.0)
    rstd = tl.load(stats_ptr + 2 * channels + cols, mask=col_ok, other=0.0)
    offset = -low * rstd
    scale = rstd
    shift = offset
    if HAS_AFFINE:
        weight = tl.load(weight_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)
        scale = rstd * weight
        shift = tl.fma(-low, scale, bias)
    return mean[None, :], rstd[None, :], offset[None, :], scale[None, :], shift[None, :]


@triton.jit
def standardize(x, affine):
    """``x̂ = (x − mean) / σ``."""
    mean, rstd, offset, _, _ = affine
    centred = x - mean
    return tl.fma(centred, tl.broadcast_to(rstd, centred.shape), tl.broadcast_to(offset, centred.shape))


@triton.jit
def normalize(x, affine):
    """``(x − mean) · scale + shift``. Forward and backward share this line, so they see the same bits."""
    mean, _, _, scale, shift = affine
    centred = x - mean
    return tl.fma(centred, tl.broadcast_to(scale, centred.shape), tl.broadcast_to(shift, centred.shape))


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
    total = tl.sum(mean * weights, axis=0) / present.to(tl.float32)
    difference = mean - total[None, :]
    spread = tl.sum(m2 + weights * difference * difference, axis=0)
    out = chunk * channels + cols
    tl.store(partials_ptr + out, total, mask=col_ok)
    tl.store(partials_ptr + n_chunks * channels + out, spread, mask=col_ok)


@per_size
def batch_norm_act_stats_kernel(
    x_ptr,  # [M, C]
    partials_ptr,  # [2, n_chunks, C] fp32
    n_rows,
    n_groups,  # C / ALIGN
    rows_per_program,
    n_chunks,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Of each chunk of rows and each channel the mean of ``d = x − x_0c`` and ``Σ (d − mean)²``."""
    channels, cols, col_ok, chunk, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C, LAST_FIRST=True)
    origin = tl.load(x_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)[None, :]
    mean = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    m2 = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    slots = tl.arange(0, BLOCK_M)
    k = 0.0
    for start in tl.range(0, rows_per_program, BLOCK_M, num_stages=STAGES):
        rows = first + start + slots
        ok = (rows < n_rows)[:, None] & col_ok[None, :]
        x = tl.load(x_ptr + rows.to(tl.int64)[:, None] * channels + cols[None, :], mask=ok, other=0.0).to(tl.float32)
        k += 1.0
        mean, m2 = welford(x, origin, ok, mean, m2, k)
    store_moments(
        partials_ptr, mean, m2, first, n_rows, rows_per_program, chunk, n_chunks, channels, cols, col_ok, BLOCK_M
    )


@per_size
def batch_norm_act_stats_reduce_kernel(
    partials_ptr,  # [2, n_chunks, C] fp32
    x_ptr,  # [M, C], for row 0
    stats_ptr,  # [3, C] fp32
    running_mean_ptr,  # [C] if HAS_RUNNING
    running_var_ptr,  # [C] if HAS_RUNNING
    count_ptr,  # [] int64 if HAS_COUNT
    n_rows,
    n_groups,
    rows_per_program,
    n_chunks,
    momentum,
    eps,
    HAS_RUNNING: tl.constexpr,
    HAS_COUNT: tl.constexpr,
    CUMULATIVE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``mean = Σ n_i mean_i / M``, ``var = Σ (m2_i + n_i (mean_i − mean)²) / M``; rows of stats: the mean rounded to
    fp32, what the rounding lost, ``1/√(var + ε)``. ``running = (1 − m) running + m (mean, var · M/(M − 1))`` with
    m = momentum, or 1/count where CUMULATIVE; otherwise ``count += 1``.
    """
    channels, cols, col_ok, _, _ = share(n_groups, 1, ALIGN, BLOCK_C)
    chunks = tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in tl.range(0, n_chunks, BLOCK_P):
        chunk = start + chunks
        ok = (chunk < n_chunks)[:, None] & col_ok[None, :]
        n = tl.minimum(n_rows - chunk * rows_per_program, rows_per_program).to(tl.float32)[:, None]
        total += n * tl.load(partials_ptr + chunk[:, None] * channels + cols[None, :], mask=ok, other=0.0)
    mean = tl.sum(total, axis=0) / n_rows.to(tl.float32)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in tl.range(0, n_chunks, BLOCK_P):
        chunk = start + chunks
        ok = (chunk < n_chunks)[:, None] & col_ok[None, :]
        n = tl.minimum(n_rows - chunk * rows_per_program, rows_per_program).to(tl.float32)[:, None]
        offsets = chunk[:, None] * channels + cols[None, :]
        difference = tl.load(partials_ptr + offsets, mask=ok, other=0.0) - mean[None, :]
        spread = tl.load(partials_ptr + n_chunks * channels + offsets, mask=ok, other=0.0)
        total += tl.where(ok, spread + n * difference * difference, 0.0)
    m2 = tl.sum(total, axis=0)

    origin = tl.load(x_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)
    high = origin + mean
    part = high - origin
    low = (origin - (high - part)) + (mean - part)
    var = m2 / n_rows.to(tl.float32)
    tl.store(stats_ptr + cols, high, mask=col_ok)
    tl.store(stats_ptr + channels + cols, low, mask=col_ok)
    tl.store(stats_ptr + 2 * channels + cols, tl.div_rn(1.0, tl.sqrt_rn(var + eps)), mask=col_ok)
    if CUMULATIVE:
        momentum = 1.0 / tl.load(count_ptr).to(tl.float32)
    elif HAS_COUNT and tl.program_id(0) == 0:
        tl.store(count_ptr, tl.load(count_ptr) + 1)
    if HAS_RUNNING:
        unbiased = m2 / (n_rows - 1).to(tl.float32)
        old_mean = tl.load(running_mean_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)
        old_var = tl.load(running_var_ptr + cols, mask=col_ok, other=0.0).to(tl.float32)
        new_mean = (1.0 - momentum) * old_mean + momentum * high
        new_var = (1.0 - momentum) * old_var + momentum * unbiased
        tl.store(running_mean_ptr + cols, new_mean.to(running_mean_ptr.dtype.element_ty), mask=col_ok)
        tl.store(running_var_ptr + cols, new_var.to(running_var_ptr.dtype.element_ty), mask=col_ok)


@dataclass(frozen=True)
class Schedule:
    """How a matrix [n_rows, n_groups · align] is shared out: programs of ``rows_per_program`` rows by a block of
    channels, in ``n_chunks`` chunks of rows."""

    n_rows: int
    n_groups: int
    align: int
    rows_per_program: int
    n_chunks: int
    programs: int


def schedule(n_rows: int, channels: int, tiles: Tile) -> Schedule:
    """Share a matrix out to at most about ``tiles["programs"]`` programs, in whole tiles."""
    column_blocks = triton.cdiv(channels, tiles["block_c"])
    row_tiles = triton.cdiv(n_rows, tiles["block_m"])
    rows = tiles["block_m"] * triton.cdiv(row_tiles * column_blocks, tiles["programs"])
    # 8 channels of 2 bytes are the 16 bytes that a thread loads at once
    align = 8 if channels % 8 == 0 else 1
    n_chunks = triton.cdiv(n_rows, rows)
    return Schedule(n_rows, channels // align, align, rows, n_chunks, n_chunks * column_blocks)


def stages(element_size: int, tiles: Tile) -> int:
    """Stages of the pipelined loops: the table's number is for 2-byte elements, wider ones need the same memory."""
    return max(2, tiles["stages"] * 2 // element_size)


def as_matrix(x: Tensor) -> Tensor:
    """``x`` in channels_last storage: the same tensor if it has it."""
    return x.contiguous(memory_format=torch.channels_last)


def batch_norm_statistics(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Return mean, the mean's part below its rounding, and rstd as [3, C]; update the running statistics."""
    x = as_matrix(x)
    channels = x.shape[1]
    tiles = tile("batch_norm_act", channels, x.device)
    plan = schedule(x.numel() // channels, channels, tiles)
    partials = x.new_empty(2, plan.n_chunks, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        batch_norm_act_stats_kernel[(plan.programs,)](
            x,
            partials,
            plan.n_rows,
            plan.n_groups,
            plan.rows_per_program,
            plan.n_chunks,
            ALIGN=plan.align,
            BLOCK_M=tiles["block_m"],
            BLOCK_C=tiles["block_c"],
            STAGES=stages(x.element_size(), tiles),
            num_warps=tiles["num_warps"],
        )
    return reduce_moments(partials, x, plan, running_mean, running_var, num_batches_tracked, momentum, eps)


def reduce_moments(
    partials: Tensor,
    x: Tensor,
    plan: Schedule,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """``batch_norm_statistics`` from the moments [2, n_chunks, C] of each chunk of a plan; x is channels_last."""
    channels = x.shape[1]
    stats = partials.new_empty(3, channels)
    if momentum is None and num_batches_tracked is not None:
        num_batches_tracked.add_(1)  # before the kernel: every program of it reads the count
    with torch.cuda.device_of(x):
        batch_norm_act_stats_reduce_kernel[(triton.cdiv(channels, REDUCE_CHANNELS),)](
            partials,
            x,
            stats,
            running_mean,
            running_var,
            num_batches_tracked,
            plan.n_rows,
            plan.n_groups,
            plan.rows_per_program,
            plan.n_chunks,
            0.0 if momentum is None else momentum,
            eps,
            HAS_RUNNING=running_mean is not None,
            HAS_COUNT=num_batches_tracked is not None and momentum is not None,
            CUMULATIVE=momentum is None and running_mean is not None,
            ALIGN=plan.align,
            BLOCK_P=REDUCE_CHUNKS,
            BLOCK_C=REDUCE_CHANNELS,
            num_warps=REDUCE_WARPS,
        )
    return stats
