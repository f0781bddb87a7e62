"""Triton kernels of the fused tail of a PyramidNet block.

All tensors are [N, C, H, W] in channels_last storage. A program works on one sample at a time, so that a coefficient
that the sample shares is drawn once. In the elementwise kernels a lane is a group of GROUP channels, read with one
access; BLOCK lanes hold as many whole pixels as fit, so that few are idle whatever C is. A program takes STEPS blocks
of pixels, whose loads are all under way before the first is used; a lane reads its channels' parameters once. The
kernels that reduce work on tiles of pixels and channels; the last program of a block of channels adds up its parts.
"""

# mypy: disable-error-code="assignment, has-type, var-annotated"
# tuples grow by sums, which is all that a kernel's compiler reads
# ruff: noqa: RUF005

import triton
import triton.language as tl

from ...batch_norm.triton_sums import finish_sums
from ..triton_draws import CHANNEL, PIXEL, coefficient

sized = triton.jit(do_not_specialize=["keep", "first_counter"])


@triton.jit
def _lanes(n_groups, GROUP: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """First pixel [BLOCK, 1], pixels a step, group [BLOCK, 1], channels [BLOCK, GROUP], and which lanes are used."""
    lane = tl.arange(0, BLOCK)[:, None]
    pixels = BLOCK // n_groups
    group = lane % n_groups
    channels = group * GROUP + tl.arange(0, GROUP)[None, :]
    return tl.program_id(1) * STEPS * pixels + lane // n_groups, pixels, group, channels, lane < pixels * n_groups


@triton.jit
def share_of_samples(n_samples, samples, n_chunks):
    """Of a program that reduces: its first sample, how many it has, its chunk of their pixels, and its part's number.

    Programs share the samples out along the first axis, ``samples`` each, and the chunks along the second.
    """
    first = tl.program_id(0) * samples
    return (
        first,
        tl.minimum(n_samples - first, samples),
        tl.program_id(1),
        tl.program_id(0) * n_chunks + tl.program_id(1),
    )


@triton.jit
def draw_block(pixel, channels, n_channels, LEVEL: tl.constexpr):
    """The last word of the counter of α and β: 0 where they do not depend on the element."""
    block = tl.program_id(1) * 0
    if LEVEL == CHANNEL:
        block = 1 + channels
    elif LEVEL == PIXEL:
        block = 1 + pixel * n_channels + channels
    return block


@triton.jit
def _place(pixel, width, in_height, in_width, A: tl.constexpr, B: tl.constexpr):
    """The place in the input image of (A, B) of a pixel's 2×2 window, and whether it lies inside."""
    row, column = 2 * (pixel // width) + A, 2 * (pixel % width) + B
    return row * in_width + column, (row < in_height) & (column < in_width)


@triton.jit
def _window_size(pixel, width, in_height, in_width):
    """How many places of a pixel's 2×2 window lie inside the input image, as fp32."""
    rows = tl.where(2 * (pixel // width) + 1 < in_height, 2.0, 1.0)
    return rows * tl.where(2 * (pixel % width) + 1 < in_width, 2.0, 1.0)


@triton.jit
def pool(x_ptr, pixel, channels, ok, in_channels, width, in_height, in_width):
    """The mean of the pixels' 2×2 windows, fp32 [BLOCK, GROUP]."""
    total = tl.zeros(channels.shape, tl.float32)
    for a in tl.static_range(2):
        for b in tl.static_range(2):
            place, inside = _place(pixel, width, in_height, in_width, a, b)
            total += tl.load(x_ptr + (place * in_channels + channels), mask=ok & inside, other=0.0).to(tl.float32)
    return total / _window_size(pixel, width, in_height, in_width)


@sized
def shakedrop_bn_shortcut_fwd_kernel(
    h_ptr,  # [N, C, H, W]
    x_ptr,  # [N, C_in, H_in, W_in]
    stats_ptr,  # [3, C] fp32: mean, what its rounding lost, rstd
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    out_ptr,  # [N, C, H, W]
    seed_ptr,
    step_ptr,
    indices_ptr,
    n_groups,
    n_in_groups,
    n_pixels,
    width,
    in_height,
    in_width,
    keep,
    draw_stream,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    POOL: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """``out = shortcut + (b + α − b·α) · ((h − mean) · rstd · weight + bias)``; the shortcut is x, or the mean of its
    2×2 windows if POOL, with zeros for channels that x does not have.
    """
    sample = tl.program_id(0).to(tl.int64)
    first, pixels, group, channels, used = _lanes(n_groups, GROUP, BLOCK, STEPS)
    n_channels, in_channels = n_groups * GROUP, n_in_groups * GROUP
    has_shortcut = used & (group < n_in_groups)
    image = sample * n_pixels * n_channels
    x_ptr += sample * in_height * in_width * in_channels
    hs = ()
    shortcuts = ()
    for i in tl.static_range(STEPS):
        pixel = first + i * pixels
        inside = pixel < n_pixels
        hs = hs + (tl.load(h_ptr + image + (pixel * n_channels + channels), mask=used & inside, other=0.0),)
        if POOL:
            shortcut = pool(x_ptr, pixel, channels, has_shortcut & inside, in_channels, width, in_height, in_width)
        else:
            shortcut = tl.load(x_ptr + (pixel * in_channels + channels), mask=has_shortcut & inside, other=0.0)
        shortcuts = shortcuts + (shortcut,)

    mean = tl.load(stats_ptr + channels, mask=used, other=0.0)
    low = tl.load(stats_ptr + n_channels + channels, mask=used, other=0.0)
    scale = tl.load(stats_ptr + 2 * n_channels + channels, mask=used, other=0.0)
    if weight_ptr is not None:
        scale = scale * tl.load(weight_ptr + channels, mask=used, other=0.0).to(tl.float32)
    shift = -low * scale
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + channels, mask=used, other=0.0).to(tl.float32)
    tl.static_assert(LEVEL != PIXEL or STEPS == 1)
    block = draw_block(first, channels, n_channels, LEVEL)
    factor = coefficient(seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, False, LEVEL, KEEP_BATCH)
    for i in tl.static_range(STEPS):
        pixel = first + i * pixels
        out = shortcuts[i].to(tl.float32) + factor * ((hs[i].to(tl.float32) - mean) * scale + shift)
        at = out_ptr + image + (pixel * n_channels + channels)
        tl.store(at, out.to(out_ptr.dtype.element_ty), mask=used & (pixel < n_pixels))


@sized
def shakedrop_bn_shortcut_bwd_sums_kernel(
    grad_ptr,  # [N, C, H, W]
    h_ptr,  # [N, C, H, W]
    stats_ptr,  # [3, C] fp32
    partials_ptr,  # [2, programs of a block of channels, C] fp32
    sums_ptr,  # [C] fp32
    sums_x_ptr,  # [C] fp32
    counters_ptr,
    seed_ptr,
    step_ptr,
    indices_ptr,
    n_groups,
    n_pixels,
    n_samples,
    n_chunks,
    samples,
    true_channels,
    first_counter,
    keep,
    draw_stream,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    GROUP: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``sums = Σ g`` and ``sums_x = Σ g · x̂`` with ``g = (b + β − b·β) · grad`` and ``x̂ = (h − mean) · rstd``; zero
    from channel ``true_channels`` on. A program adds up CHUNK pixels of each of ``samples`` samples.
    """
    first, count, chunk, part = share_of_samples(n_samples, samples, n_chunks)
    n_channels = n_groups * GROUP
    channels = (tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    channel_ok = channels < n_channels
    mean = tl.load(stats_ptr + channels, mask=channel_ok, other=0.0)
    low = tl.load(stats_ptr + n_channels + channels, mask=channel_ok, other=0.0)
    sums = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    sums_x = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i in tl.range(0, count):
        sample = first + i
        image = sample.to(tl.int64) * n_pixels * n_channels
        if LEVEL != PIXEL:
            block = draw_block(chunk, channels, n_channels, LEVEL)
            factor = coefficient(
                seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, True, LEVEL, KEEP_BATCH
            )
        for start in tl.range(0, CHUNK, BLOCK_P):
            pixel = (chunk * CHUNK + start + tl.arange(0, BLOCK_P))[:, None]
            ok = (pixel < n_pixels) & channel_ok
            offsets = pixel * n_channels + channels
            g = tl.load(grad_ptr + image + offsets, mask=ok, other=0.0).to(tl.float32)
            h = tl.load(h_ptr + image + offsets, mask=ok, other=0.0).to(tl.float32)
            if LEVEL == PIXEL:
                block = draw_block(pixel, channels, n_channels, LEVEL)
                g *= coefficient(
                    seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, True, LEVEL, KEEP_BATCH
                )
            else:
                g *= factor
            sums += g
            sums_x += g * ((h - mean) - low)
    rstd = tl.load(stats_ptr + 2 * n_channels + channels, mask=channel_ok, other=0.0)
    true = channels < true_channels
    total = tl.where(true, tl.sum(sums, axis=0)[None, :], 0.0)
    total_x = tl.where(true, tl.sum(sums_x, axis=0)[None, :] * rstd, 0.0)
    parts = tl.num_programs(0) * n_chunks
    at = part * n_channels + channels
    tl.store(partials_ptr + at, total, mask=channel_ok)
    tl.store(partials_ptr + parts * n_channels + at, total_x, mask=channel_ok)
    cols = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    counter_ptr = counters_ptr + first_counter + tl.program_id(2)
    finish_sums(
        partials_ptr, sums_ptr, sums_x_ptr, counter_ptr, parts, parts, n_channels, cols, cols < n_channels, BLOCK_C
    )


@sized
def shakedrop_bn_shortcut_bwd_kernel(
    grad_ptr,  # [N, C, H, W]
    h_ptr,  # [N, C, H, W]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] or None
    sums_ptr,  # [C] fp32: Σ g, if BY_BATCH
    sums_x_ptr,  # [C] fp32: Σ g · x̂, if BY_BATCH
    grad_h_ptr,  # [N, C, H, W]
    grad_x_ptr,  # [N, C_in, H_in, W_in] if POOL
    seed_ptr,
    step_ptr,
    indices_ptr,
    n_samples,
    n_groups,
    n_in_groups,
    n_pixels,
    width,
    in_height,
    in_width,
    keep,
    draw_stream,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    BY_BATCH: tl.constexpr,
    POOL: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """``grad_h = rstd · weight · (g − (Σ g + x̂ · Σ g·x̂) / M)`` with ``g = (b + β − b·β) · grad``, M = N·H·W; without
    the sums for running statistics. If POOL, ``grad_x = grad / size of the window`` for each place of a window.
    """
    sample = tl.program_id(0).to(tl.int64)
    first, pixels, group, channels, used = _lanes(n_groups, GROUP, BLOCK, STEPS)
    n_channels, in_channels = n_groups * GROUP, n_in_groups * GROUP
    image = sample * n_pixels * n_channels
    grads = ()
    hs = ()
    for i in tl.static_range(STEPS):
        pixel = first + i * pixels
        offsets = image + (pixel * n_channels + channels)
        ok = used & (pixel < n_pixels)
        grads = grads + (tl.load(grad_ptr + offsets, mask=ok, other=0.0),)
        if BY_BATCH:
            hs = hs + (tl.load(h_ptr + offsets, mask=ok, other=0.0),)

    scale = tl.load(stats_ptr + 2 * n_channels + channels, mask=used, other=0.0)
    if BY_BATCH:
        mean = tl.load(stats_ptr + channels, mask=used, other=0.0)
        low = tl.load(stats_ptr + n_channels + channels, mask=used, other=0.0)
        count = (n_samples * n_pixels).to(tl.float32)
        slope = scale * (tl.load(sums_x_ptr + channels, mask=used, other=0.0) / count)
        level = tl.load(sums_ptr + channels, mask=used, other=0.0) / count - low * slope
    if weight_ptr is not None:
        scale = scale * tl.load(weight_ptr + channels, mask=used, other=0.0).to(tl.float32)
    tl.static_assert(LEVEL != PIXEL or STEPS == 1)
    block = draw_block(first, channels, n_channels, LEVEL)
    factor = coefficient(seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, True, LEVEL, KEEP_BATCH)
    for i in tl.static_range(STEPS):
        pixel = first + i * pixels
        ok = used & (pixel < n_pixels)
        grad = grads[i].to(tl.float32)
        g = grad * factor
        if BY_BATCH:
            g = (g - level) - (hs[i].to(tl.float32) - mean) * slope
        at = grad_h_ptr + image + (pixel * n_channels + channels)
        tl.store(at, (g * scale).to(grad_h_ptr.dtype.element_ty), mask=ok)
        if POOL:
            at = grad_x_ptr + sample * in_height * in_width * in_channels
            share = (grad / _window_size(pixel, width, in_height, in_width)).to(grad_x_ptr.dtype.element_ty)
            for a in tl.static_range(2):
                for b in tl.static_range(2):
                    place, inside = _place(pixel, width, in_height, in_width, a, b)
                    in_ok = ok & (group < n_in_groups) & inside
                    tl.store(at + (place * in_channels + channels), share, mask=in_ok)
