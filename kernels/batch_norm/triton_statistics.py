"""Triton kernels of the batch statistics, and how all kernels of this family share out an [M, C] matrix.

x is read as the row-major matrix [M, C] that channels_last storage is, M = N·H·W. A program takes a block of channels
and a chunk of consecutive rows, which it walks through tile by tile with asynchronous copies running ahead.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tuning.tables import Tile, tile
from .state import BatchNormState
from .triton_moments import finish_moments, moments_arguments, store_moments, welford

_SIZES = ("n_rows", "n_groups", "rows_per_program", "n_chunks", "first_counter", "draw_stream", "threshold", "channels")
per_size = triton.jit(do_not_specialize=list(_SIZES))
RUNNING_BLOCK = 128


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
def column_block(counters_ptr, first_counter, channels, BLOCK_C: tl.constexpr):
    """Of a program that takes its share LAST_FIRST: its channels, which exist, and the counter of this block of them.

    What comes after the loop over the rows takes the channels from here: kept from ``share`` they cost it a register.
    """
    blocks = tl.cdiv(channels, BLOCK_C)
    block = blocks - 1 - tl.program_id(0) % blocks
    cols = block * BLOCK_C + tl.arange(0, BLOCK_C)
    return cols, cols < channels, counters_ptr + first_counter + block


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


@per_size
def batch_norm_act_stats_kernel(
    x_ptr,  # [M, C]
    partials_ptr,  # [2, n_chunks, C] fp32
    stats_ptr,  # [3, C] fp32
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    count_ptr,  # [] int64 or None
    counters_ptr,
    n_rows,
    n_groups,  # C / ALIGN
    rows_per_program,
    n_chunks,
    first_counter,
    momentum,
    eps,
    CUMULATIVE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The statistics of each channel, from each chunk's mean of ``d = x − x_0c`` and ``Σ (d − mean)²``."""
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
    cols, col_ok, counter_ptr = column_block(counters_ptr, first_counter, channels, BLOCK_C)
    store_moments(
        partials_ptr, mean, m2, first, n_rows, rows_per_program, chunk, n_chunks, channels, cols, col_ok, BLOCK_M
    )
    finish_moments(
        partials_ptr,
        x_ptr,
        stats_ptr,
        running_mean_ptr,
        running_var_ptr,
        count_ptr,
        counter_ptr,
        n_rows,
        rows_per_program,
        n_chunks,
        channels,
        cols,
        col_ok,
        momentum,
        eps,
        CUMULATIVE,
        BLOCK_C,
    )


@per_size
def running_statistics_kernel(
    running_mean_ptr,  # [C]
    running_var_ptr,  # [C]
    stats_ptr,  # [3, C] fp32
    channels,
    eps,
    BLOCK_C: tl.constexpr,
):
    """``running_mean, 0, 1/√(running_var + ε)``."""
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = cols < channels
    mean = tl.load(running_mean_ptr + cols, mask=ok, other=0.0).to(tl.float32)
    var = tl.load(running_var_ptr + cols, mask=ok, other=0.0).to(tl.float32)
    tl.store(stats_ptr + cols, mean, mask=ok)
    tl.store(stats_ptr + channels + cols, tl.zeros([BLOCK_C], tl.float32), mask=ok)
    tl.store(stats_ptr + 2 * channels + cols, tl.div_rn(1.0, tl.sqrt_rn(var + eps)), mask=ok)


@dataclass(frozen=True)
class Schedule:
    """How a matrix [n_rows, n_groups · align] is shared out: programs of ``rows_per_program`` rows by a block of
    channels, in ``n_chunks`` chunks of rows; ``tiles`` is the row of the tuning table."""

    n_rows: int
    n_groups: int
    align: int
    rows_per_program: int
    n_chunks: int
    column_blocks: int
    programs: int
    tiles: Tile

    @property
    def sizes(self) -> tuple[int, int, int]:
        """As kernels take them: rows, groups of channels, rows of a program."""
        return self.n_rows, self.n_groups, self.rows_per_program

    @property
    def blocks(self) -> dict[str, int]:
        """The compile-time settings of a kernel whose loop is not pipelined."""
        tiles = self.tiles
        blocks = {"BLOCK_M": tiles["block_m"], "BLOCK_C": tiles["block_c"], "num_warps": tiles["num_warps"]}
        return {"ALIGN": self.align, **blocks}

    def pipelined(self, x: Tensor) -> dict[str, int]:
        """``blocks`` and the stages of a pipelined loop over x: the table's are for 2-byte elements, wider ones need
        the same memory."""
        return {**self.blocks, "STAGES": max(2, self.tiles["stages"] * 2 // x.element_size())}


def schedule(op: str, x: Tensor, n_rows: int | None = None) -> Schedule:
    """Share x [N, C, H, W], or ``n_rows`` rows of C channels, out by ``op``'s row of the tuning table: to at most about
    as many programs as that says, in whole tiles."""
    channels = x.shape[1]
    tiles = tile(op, channels, x.device)
    n_rows = x.numel() // channels if n_rows is None else n_rows
    column_blocks = triton.cdiv(channels, tiles["block_c"])
    row_tiles = triton.cdiv(n_rows, tiles["block_m"])
    rows = tiles["block_m"] * triton.cdiv(row_tiles * column_blocks, tiles["programs"])
    # 8 channels of 2 bytes are the 16 bytes that a thread loads at once
    align = 8 if channels % 8 == 0 else 1
    n_chunks = triton.cdiv(n_rows, rows)
    return Schedule(n_rows, channels // align, align, rows, n_chunks, column_blocks, n_chunks * column_blocks, tiles)


def as_matrix(x: Tensor) -> Tensor:
    """``x`` in channels_last storage: the same tensor if it has it."""
    return x.contiguous(memory_format=torch.channels_last)


def batch_norm_statistics(x: Tensor, state: BatchNormState) -> Tensor:
    """Return mean, the mean's part below its rounding, and rstd as [3, C]; update the running statistics."""
    x = as_matrix(x)
    plan = schedule("batch_norm_act", x)
    stats, arguments = moments_arguments(x, plan, state)
    with torch.cuda.device_of(x):
        batch_norm_act_stats_kernel[(plan.programs,)](x, **arguments, **plan.pipelined(x))
    return stats


def running_statistics(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    """The statistics [3, C] of running mean and variance."""
    channels = len(running_mean)
    stats = running_mean.new_empty(3, channels, dtype=torch.float32)
    with torch.cuda.device_of(running_mean):
        running_statistics_kernel[(triton.cdiv(channels, RUNNING_BLOCK),)](
            running_mean, running_var, stats, channels, eps, BLOCK_C=RUNNING_BLOCK, num_warps=4
        )
    return stats
