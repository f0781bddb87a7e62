"""The forward kernel that also returns the statistics of its output, which the next batch norm then need not read."""

import triton
import triton.language as tl

from ...batch_norm.triton_moments import store_statistics
from ...last_block import is_last_block
from ..triton_draws import PIXEL, coefficient
from .triton_kernels import draw_block, pool, share_of_samples, sized

# the last program reads tiles of so many parts, and asks for so many tiles before it needs the first
REDUCE_TILE = tl.constexpr(512)
LOADS_IN_FLIGHT = tl.constexpr(4)


@sized
def shakedrop_bn_shortcut_fwd_stats_kernel(
    h_ptr,  # [N, C, H, W]
    x_ptr,  # [N, C_in, H_in, W_in]
    stats_ptr,  # [3, C] fp32: mean, what its rounding lost, rstd
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    out_ptr,  # [N, C, H, W]
    partials_ptr,  # [2, programs of a block of channels, C] fp32
    y_stats_ptr,  # [3, C] fp32: what store_statistics stores
    running_mean_ptr,  # [C] or None: of the batch norm that normalises out
    running_var_ptr,  # [C] or None
    count_ptr,  # [] int64 or None
    counters_ptr,
    seed_ptr,
    step_ptr,
    indices_ptr,
    n_groups,
    n_in_groups,
    n_pixels,
    width,
    in_height,
    in_width,
    n_samples,
    n_chunks,
    samples,
    first_counter,
    keep,
    draw_stream,
    momentum,
    eps,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    POOL: tl.constexpr,
    CUMULATIVE: tl.constexpr,
    GROUP: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``out`` as ``shakedrop_bn_shortcut_fwd_kernel`` writes it, and what ``store_statistics`` makes of mean and
    variance of the rounded ``out``.

    A program takes CHUNK pixels of each of ``samples`` samples; each row of its tile follows Welford, "Note on a method
    for calculating corrected sums of squares and products", Technometrics 1962.
    """
    first, count, chunk, part = share_of_samples(n_samples, samples, n_chunks)
    n_channels, in_channels = n_groups * GROUP, n_in_groups * GROUP
    cols = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    channels = cols[None, :]
    channel_ok = channels < n_channels
    mean = tl.load(stats_ptr + channels, mask=channel_ok, other=0.0)
    low = tl.load(stats_ptr + n_channels + channels, mask=channel_ok, other=0.0)
    scale = tl.load(stats_ptr + 2 * n_channels + channels, mask=channel_ok, other=0.0)
    if weight_ptr is not None:
        scale = scale * tl.load(weight_ptr + channels, mask=channel_ok, other=0.0).to(tl.float32)
    shift = -low * scale
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + channels, mask=channel_ok, other=0.0).to(tl.float32)
    seen = tl.zeros([BLOCK_P, 1], tl.float32)
    average = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i in tl.range(0, count):
        sample = first + i
        image = sample.to(tl.int64) * n_pixels * n_channels
        source_ptr = x_ptr + sample.to(tl.int64) * in_height * in_width * in_channels
        if LEVEL != PIXEL:
            block = draw_block(chunk, channels, n_channels, LEVEL)
            factor = coefficient(
                seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, False, LEVEL, KEEP_BATCH
            )
        for start in tl.range(0, CHUNK, BLOCK_P):
            pixel = (chunk * CHUNK + start + tl.arange(0, BLOCK_P))[:, None]
            present = pixel < n_pixels
            ok = present & channel_ok
            h = tl.load(h_ptr + image + (pixel * n_channels + channels), mask=ok, other=0.0).to(tl.float32)
            has_shortcut = present & (channels < in_channels)
            if POOL:
                shortcut = pool(source_ptr, pixel, channels, has_shortcut, in_channels, width, in_height, in_width)
            else:
                offsets = pixel * in_channels + channels
                shortcut = tl.load(source_ptr + offsets, mask=has_shortcut, other=0.0).to(tl.float32)
            branch = (h - mean) * scale + shift
            if LEVEL == PIXEL:
                block = draw_block(pixel, channels, n_channels, LEVEL)
                branch *= coefficient(
                    seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, False, LEVEL, KEEP_BATCH
                )
            else:
                branch *= factor
            out = (shortcut + branch).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + image + (pixel * n_channels + channels), out, mask=ok)
            seen += present.to(tl.float32)
            deviation = tl.where(ok, out.to(tl.float32) - average, 0.0)
            share = 1.0 / tl.maximum(seen, 1.0)
            average += deviation * share
            square += deviation * deviation * (1.0 - share)
    total = tl.sum(average * seen, axis=0) / tl.sum(seen, axis=0)
    deviation = average - total[None, :]
    spread = tl.sum(square + seen * deviation * deviation, axis=0)
    parts = tl.num_programs(0) * n_chunks
    at = part * n_channels + cols
    tl.store(partials_ptr + at, total, mask=cols < n_channels)
    tl.store(partials_ptr + parts * n_channels + at, spread, mask=cols < n_channels)
    if is_last_block(counters_ptr + first_counter + tl.program_id(2), parts):
        joined, lost, squares = _join_moments(
            partials_ptr, n_pixels, n_samples, samples, n_chunks, parts, n_channels, cols, CHUNK, BLOCK_C
        )
        all_pixels = n_samples * 1.0 * n_pixels
        col_ok = cols < n_channels
        var = squares / all_pixels
        store_statistics(
            joined,
            lost,
            var,
            squares / (all_pixels - 1),
            y_stats_ptr,
            running_mean_ptr,
            running_var_ptr,
            count_ptr,
            tl.program_id(2) == 0,
            n_channels,
            cols,
            col_ok,
            momentum,
            eps,
            CUMULATIVE,
        )


@triton.jit
def _join_moments(
    partials_ptr,
    n_pixels,
    n_samples,
    samples,
    n_chunks,
    parts,
    n_channels,
    cols,  # [BLOCK_C]
    CHUNK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean, its part below rounding and ``Σ (out − mean)²`` over the parts, in one pass.

    Means are taken as differences d_i from part 0's: ``Σ (out − mean)² = Σ (square_i + n_i d_i²) − (Σ n_i d_i)² / M``,
    whose terms are of the result's size.
    """
    BLOCK_P: tl.constexpr = max(REDUCE_TILE // BLOCK_C, 1)
    col_ok = cols < n_channels
    origin = tl.load(partials_ptr + cols, mask=col_ok, other=0.0, cache_modifier=".cg")
    shifts = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in tl.range(0, parts, BLOCK_P * LOADS_IN_FLIGHT):
        for k in tl.static_range(LOADS_IN_FLIGHT):
            part = start + k * BLOCK_P + tl.arange(0, BLOCK_P)
            images = tl.minimum(n_samples - part // n_chunks * samples, samples)
            pixels = tl.minimum(n_pixels - part % n_chunks * CHUNK, CHUNK)
            weight = (images * pixels).to(tl.float32)[:, None]
            ok = (part < parts)[:, None] & col_ok[None, :]
            pointers = partials_ptr + part[:, None] * n_channels + cols[None, :]
            shift = tl.load(pointers, mask=ok, other=0.0, cache_modifier=".cg") - origin[None, :]
            spread = tl.load(pointers + parts * n_channels, mask=ok, other=0.0, cache_modifier=".cg")
            shifts += tl.where(ok, weight * shift, 0.0)
            squares += tl.where(ok, spread + weight * shift * shift, 0.0)
    total = tl.sum(shifts, axis=0)
    offset = total / (n_samples * 1.0 * n_pixels)
    mean = origin + offset
    part_of_mean = mean - origin
    low = (origin - (mean - part_of_mean)) + (offset - part_of_mean)
    square = tl.sum(squares, axis=0) - total * offset
    return mean, low, tl.where(square < 0, 0.0, square)  # NaN stays
