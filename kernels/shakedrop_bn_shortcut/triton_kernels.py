"""Triton kernels of the fused tail of a PyramidNet block.

All tensors are [N, C, H, W] in channels_last storage. A program works on one sample, so that a coefficient that the
sample shares is drawn once a program. In the elementwise kernels a lane is one group of GROUP channels, read with one
access, of STEPS pixels: BLOCK lanes hold as many whole pixels as fit, so that few lanes are idle whatever C is, and a lane
reads its channels' parameters once.
"""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from ..shakedrop.triton_draws import CHANNEL, PIXEL, coefficient

sized = triton.jit(do_not_specialize=["keep_threshold"])


@triton.jit
def _lanes(n_groups, n_pixels, GROUP: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Pixels [STEPS, BLOCK, 1], groups [1, BLOCK, 1], channels [1, BLOCK, GROUP] of the lanes, and which exist."""
    lane = tl.arange(0, BLOCK)[None, :, None]
    pixels = BLOCK // n_groups
    step = tl.program_id(1) * STEPS + tl.arange(0, STEPS)[:, None, None]
    pixel = step * pixels + lane // n_groups
    group = lane % n_groups
    channels = group * GROUP + tl.arange(0, GROUP)[None, None, :]
    used = lane < pixels * n_groups
    return pixel, group, channels, used, used & (pixel < n_pixels)


@triton.jit
def _draw_block(pixel, channels, n_channels, LEVEL: tl.constexpr):
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
    keep_probability,
    keep_threshold,
    stream,
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
    pixel, group, channels, used, ok = _lanes(n_groups, n_pixels, GROUP, BLOCK, STEPS)
    n_channels = n_groups * GROUP
    offsets = pixel * n_channels + channels
    image = sample * n_pixels * n_channels
    h = tl.load(h_ptr + image + offsets, mask=ok, other=0.0).to(tl.float32)

    in_ok = ok & (group < n_in_groups)
    in_channels = n_in_groups * GROUP
    x_ptr += sample * in_height * in_width * in_channels
    if POOL:
        shortcut = tl.zeros(h.shape, tl.float32)
        for a in tl.static_range(2):
            for b in tl.static_range(2):
                place, inside = _place(pixel, width, in_height, in_width, a, b)
                x = tl.load(x_ptr + (place * in_channels + channels), mask=in_ok & inside, other=0.0)
                shortcut += x.to(tl.float32)
        shortcut = shortcut / _window_size(pixel, width, in_height, in_width)
    else:
        shortcut = tl.load(x_ptr + (pixel * in_channels + channels), mask=in_ok, other=0.0).to(tl.float32)

    mean = tl.load(stats_ptr + channels, mask=used, other=0.0)
    low = tl.load(stats_ptr + n_channels + channels, mask=used, other=0.0)
    scale = tl.load(stats_ptr + 2 * n_channels + channels, mask=used, other=0.0)
    if weight_ptr is not None:
        scale = scale * tl.load(weight_ptr + channels, mask=used, other=0.0).to(tl.float32)
    shift = -low * scale
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + channels, mask=used, other=0.0).to(tl.float32)
    factor = coefficient(
        seed_ptr,
        step_ptr,
        indices_ptr,
        sample,
        _draw_block(pixel, channels, n_channels, LEVEL),
        keep_probability,
        keep_threshold,
        stream,
        BACKWARD=False,
        LEVEL=LEVEL,
        KEEP_BATCH=KEEP_BATCH,
    )
    out = shortcut + factor * ((h - mean) * scale + shift)
    tl.store(out_ptr + image + offsets, out.to(out_ptr.dtype.element_ty), mask=ok)


@sized
def shakedrop_bn_shortcut_bwd_sums_kernel(
    grad_ptr,  # [N, C, H, W]
    h_ptr,  # [N, C, H, W]
    stats_ptr,  # [3, C] fp32
    partials_ptr,  # [2, N · n_chunks, C] fp32
    seed_ptr,
    step_ptr,
    indices_ptr,
    n_groups,
    n_pixels,
    n_samples,
    n_chunks,
    keep_probability,
    keep_threshold,
    stream,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    GROUP: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``Σ g`` and ``Σ g · x̂`` over CHUNK pixels of a sample, ``g = (b + β − b·β) · grad``, ``x̂ = (h − mean) · rstd``."""
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n_channels = n_groups * GROUP
    channels = (tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    channel_ok = channels < n_channels
    mean = tl.load(stats_ptr + channels, mask=channel_ok, other=0.0)
    low = tl.load(stats_ptr + n_channels + channels, mask=channel_ok, other=0.0)
    rstd = tl.load(stats_ptr + 2 * n_channels + channels, mask=channel_ok, other=0.0)
    sums = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    sums_x = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    image = sample * n_pixels * n_channels
    for start in tl.range(0, CHUNK, BLOCK_P):
        pixel = (chunk * CHUNK + start + tl.arange(0, BLOCK_P))[:, None]
        ok = (pixel < n_pixels) & channel_ok
        offsets = pixel * n_channels + channels
        g = tl.load(grad_ptr + image + offsets, mask=ok, other=0.0).to(tl.float32)
        h = tl.load(h_ptr + image + offsets, mask=ok, other=0.0).to(tl.float32)
        factor = coefficient(
            seed_ptr,
            step_ptr,
            indices_ptr,
            sample,
            _draw_block(pixel, channels, n_channels, LEVEL),
            keep_probability,
            keep_threshold,
            stream,
            BACKWARD=True,
            LEVEL=LEVEL,
            KEEP_BATCH=KEEP_BATCH,
        )
        g = g * factor
        sums += g
        sums_x += g * ((h - mean) - low)
    at = (sample * n_chunks + chunk) * n_channels + channels
    tl.store(partials_ptr + at, tl.sum(sums, axis=0)[None, :], mask=channel_ok)
    partials_ptr += n_samples.to(tl.int64) * n_chunks * n_channels
    tl.store(partials_ptr + at, tl.sum(sums_x, axis=0)[None, :] * rstd, mask=channel_ok)


@sized
def shakedrop_bn_shortcut_bwd_kernel(
    grad_ptr,  # [N, C, H, W]
    h_ptr,  # [N, C, H, W]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] or None
    sums_ptr,  # [C] fp32: Σ g, if TRAINING
    sums_x_ptr,  # [C] fp32: Σ g · x̂, if TRAINING
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
    keep_probability,
    keep_threshold,
    stream,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    TRAINING: tl.constexpr,
    POOL: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """``grad_h = rstd · weight · (g − (Σ g + x̂ · Σ g·x̂) / M)`` with ``g = (b + β − b·β) · grad``, M = N·H·W; without
    the sums in evaluation. If POOL, ``grad_x = grad / size of the window`` for each place of a window.
    """
    sample = tl.program_id(0).to(tl.int64)
    pixel, group, channels, used, ok = _lanes(n_groups, n_pixels, GROUP, BLOCK, STEPS)
    n_channels = n_groups * GROUP
    offsets = pixel * n_channels + channels
    image = sample * n_pixels * n_channels
    grad = tl.load(grad_ptr + image + offsets, mask=ok, other=0.0).to(tl.float32)
    factor = coefficient(
        seed_ptr,
        step_ptr,
        indices_ptr,
        sample,
        _draw_block(pixel, channels, n_channels, LEVEL),
        keep_probability,
        keep_threshold,
        stream,
        BACKWARD=True,
        LEVEL=LEVEL,
        KEEP_BATCH=KEEP_BATCH,
    )
    g = grad * factor
    rstd = tl.load(stats_ptr + 2 * n_channels + channels, mask=used, other=0.0)
    if TRAINING:
        h = tl.load(h_ptr + image + offsets, mask=ok, other=0.0).to(tl.float32)
        mean = tl.load(stats_ptr + channels, mask=used, other=0.0)
        low = tl.load(stats_ptr + n_channels + channels, mask=used, other=0.0)
        count = (n_samples * n_pixels).to(tl.float32)
        slope = rstd * (tl.load(sums_x_ptr + channels, mask=used, other=0.0) / count)
        level = tl.load(sums_ptr + channels, mask=used, other=0.0) / count - low * slope
        g = (g - level) - (h - mean) * slope
    if weight_ptr is not None:
        rstd = rstd * tl.load(weight_ptr + channels, mask=used, other=0.0).to(tl.float32)
    tl.store(grad_h_ptr + image + offsets, (g * rstd).to(grad_h_ptr.dtype.element_ty), mask=ok)
    if POOL:
        in_ok = ok & (group < n_in_groups)
        in_channels = n_in_groups * GROUP
        grad_x_ptr += sample * in_height * in_width * in_channels
        share = (grad / _window_size(pixel, width, in_height, in_width)).to(grad_x_ptr.dtype.element_ty)
        for a in tl.static_range(2):
            for b in tl.static_range(2):
                place, inside = _place(pixel, width, in_height, in_width, a, b)
                tl.store(grad_x_ptr + (place * in_channels + channels), share, mask=in_ok & inside)
