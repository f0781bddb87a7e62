"""What is joined over all tiles of pixels, in the kernel that computes the tiles.

Each program of a convolution stores a row of two numbers a channel: mean and sum of squares of its tile, or two sums.
The last to arrive of each GROUP tiles joins their rows to one, and the last of the groups joins those. In one step a
single program would read the rows of all tiles, a megabyte for 1,024 tiles of 128 channels, which takes it longer than
another kernel would with its launch. Rows are added in the order of the tiles, whoever is last.
"""

import triton
import triton.language as tl

from ..batch_norm.triton_moments import store_statistics
from ..last_block import is_last_block

GROUP = tl.constexpr(32)
# numbers of a kind that a joining program has under way at a time: few enough for the registers of any tile
_UNDER_WAY = tl.constexpr(1024)


def rows_of(n_tiles: int) -> int:
    """How many rows the tiles and their groups store."""
    return n_tiles + triton.cdiv(n_tiles, GROUP.value)


def counters_of(n_tiles: int, columns: int) -> int:
    """How many counters that takes with so many blocks of channels."""
    return columns * (triton.cdiv(n_tiles, GROUP.value) + 1)


@triton.jit
def own_counters(counters_ptr, first_counter, column, n_tiles):
    """The counters of a block of channels: one for its groups, then one for the tiles of each group."""
    return counters_ptr + first_counter + column * (tl.cdiv(n_tiles, GROUP) + 1)


@triton.jit
def store_row(
    partials_ptr,  # [2, tiles and groups of tiles, C] fp32
    row,
    n_tiles,
    channels,
    cs,  # [BLOCK_C]
    c_ok,
    first,  # [BLOCK_C]
    second,  # [BLOCK_C]
):
    """Store a row of both kinds."""
    rows = n_tiles + tl.cdiv(n_tiles, GROUP)
    tl.store(partials_ptr + row * channels + cs, first, mask=c_ok)
    tl.store(partials_ptr + (rows + row) * channels + cs, second, mask=c_ok)


@triton.jit
def arrive_in_group(counters_ptr, tile, n_tiles):
    """Count a tile whose row is stored; whether it is the last of its group."""
    group = tile // GROUP
    return is_last_block(counters_ptr + 1 + group, tl.minimum(n_tiles - group * GROUP, GROUP))


@triton.jit
def _load_rows(partials_ptr, start, first, end, n_tiles, channels, cs, c_ok, BLOCK_T: tl.constexpr):
    """Rows ``first + start …`` before ``end`` of both kinds [BLOCK_T, BLOCK_C], zeros after it; which exist."""
    ts = first + start + tl.arange(0, BLOCK_T)
    ok = (ts < end)[:, None] & c_ok[None, :]
    offsets = ts[:, None] * channels + cs[None, :]
    rows = n_tiles + tl.cdiv(n_tiles, GROUP)
    one = tl.load(partials_ptr + offsets, mask=ok, other=0.0, cache_modifier=".cg")
    two = tl.load(partials_ptr + rows * channels + offsets, mask=ok, other=0.0, cache_modifier=".cg")
    return one, two, ok


@triton.jit
def _join_moments(
    partials_ptr,
    first,
    count,
    pixels,  # of all these rows
    pixels_per_row,  # of each but the last
    n_tiles,
    channels,
    cs,
    c_ok,
    BLOCK_C: tl.constexpr,
):
    """Mean, its part below rounding and ``Σ (y − mean)²`` of ``count`` rows from ``first``, in one pass.

    With ``d_t = mean_t − mean_first``: ``mean = mean_first + Σ n_t d_t / M``, ``Σ (y − mean)² = Σ (square_t + n_t d_t²)
    − (Σ n_t d_t)² / M``. The difference loses at most a factor of ``count`` in precision, for
    ``(mean_first − mean)² ≤ count · variance``.
    """
    BLOCK_T: tl.constexpr = max(min(GROUP, _UNDER_WAY // BLOCK_C), 1)
    origin = tl.load(partials_ptr + first * channels + cs, mask=c_ok, other=0.0, cache_modifier=".cg")
    total = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for start in range(0, count, BLOCK_T):
        means, squares, ok = _load_rows(partials_ptr, start, first, first + count, n_tiles, channels, cs, c_ok, BLOCK_T)
        n = tl.minimum(pixels - (start + tl.arange(0, BLOCK_T)) * pixels_per_row, pixels_per_row)
        difference = tl.where(ok, means - origin[None, :], 0.0)
        weighted = n.to(tl.float32)[:, None] * difference
        total += weighted
        square += squares + weighted * difference
    sums = tl.sum(total, axis=0)
    offset = sums / pixels
    mean = origin + offset
    part = mean - origin
    low = (origin - (mean - part)) + (offset - part)
    return mean, low, tl.sum(square, axis=0) - sums * offset


@triton.jit
def finish_moments(
    partials_ptr,  # [2, tiles and groups of tiles, C] fp32: mean and Σ (y − mean)²
    stats_ptr,  # [3, C] fp32: what store_statistics stores
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    count_ptr,  # [] int64 or None
    counters_ptr,  # as own_counters has them
    tile,
    n_tiles,
    pixels,
    momentum,
    eps,
    channels,
    cs,
    c_ok,
    CUMULATIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """By the last program of a group of tiles: join its rows; then, if it is the last group too, those of all groups.

    All tiles but the last have BLOCK_M pixels.
    """
    group = tile // GROUP
    first = group * GROUP
    here = tl.minimum(pixels - first * BLOCK_M, GROUP * BLOCK_M)
    count = tl.minimum(n_tiles - first, GROUP)
    mean, low, square = _join_moments(partials_ptr, first, count, here, BLOCK_M, n_tiles, channels, cs, c_ok, BLOCK_C)
    store_row(partials_ptr, n_tiles + group, n_tiles, channels, cs, c_ok, mean, square)
    groups = tl.cdiv(n_tiles, GROUP)
    if is_last_block(counters_ptr, groups):
        mean, low, square = _join_moments(
            partials_ptr, n_tiles, groups, pixels, GROUP * BLOCK_M, n_tiles, channels, cs, c_ok, BLOCK_C
        )
        store_statistics(
            mean,
            low,
            square / pixels,
            square / (pixels - 1),
            stats_ptr,
            running_mean_ptr,
            running_var_ptr,
            count_ptr,
            tl.program_id(0) % tl.cdiv(channels, BLOCK_C) == 0,
            channels,
            cs,
            c_ok,
            momentum,
            eps,
            CUMULATIVE,
        )


@triton.jit
def _join_sums(partials_ptr, first, count, n_tiles, channels, cs, c_ok, BLOCK_C: tl.constexpr):
    """Both kinds of ``count`` rows from ``first``, added up."""
    BLOCK_T: tl.constexpr = max(min(GROUP, _UNDER_WAY // BLOCK_C), 1)
    one = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    two = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for start in range(0, count, BLOCK_T):
        more_one, more_two, _ = _load_rows(
            partials_ptr, start, first, first + count, n_tiles, channels, cs, c_ok, BLOCK_T
        )
        one += more_one
        two += more_two
    return tl.sum(one, axis=0), tl.sum(two, axis=0)


@triton.jit
def finish_sums(
    partials_ptr,  # [2, tiles and groups of tiles, C] fp32: Σ da and Σ da · x̂
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    counters_ptr,  # as own_counters has them
    tile,
    n_tiles,
    channels,
    cs,
    c_ok,
    BLOCK_C: tl.constexpr,
):
    """By the last program of a group of tiles: add its rows; then, if it is the last group too, those of all groups."""
    group = tile // GROUP
    first = group * GROUP
    count = tl.minimum(n_tiles - first, GROUP)
    d_bias, d_weight = _join_sums(partials_ptr, first, count, n_tiles, channels, cs, c_ok, BLOCK_C)
    store_row(partials_ptr, n_tiles + group, n_tiles, channels, cs, c_ok, d_bias, d_weight)
    groups = tl.cdiv(n_tiles, GROUP)
    if is_last_block(counters_ptr, groups):
        d_bias, d_weight = _join_sums(partials_ptr, n_tiles, groups, n_tiles, channels, cs, c_ok, BLOCK_C)
        tl.store(d_bias_ptr + cs, d_bias, mask=c_ok)
        tl.store(d_weight_ptr + cs, d_weight, mask=c_ok)
