"""The forward kernel: implicit-GEMM convolution with a fused prologue and epilogue."""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from .triton_common import activation, pixel_coordinates, tile_origin


@triton.jit
def conv_fwd_kernel(
    x_ptr,  # [N, H, W, C]; if USE_TMA its descriptor with box [BOX_N, BOX_H, BOX_W, BLOCK_C]
    w_ptr,  # [K, R·S, C]; if USE_TMA its descriptor with box [BLOCK_K, 1, BLOCK_C]
    y_ptr,  # [N, P, Q, K]
    in_scale_ptr,  # [C] fp32 if PROLOGUE
    in_shift_ptr,  # [C] fp32 if PROLOGUE
    out_scale_ptr,  # [K] fp32 if FOLD
    out_shift_ptr,  # [K] fp32 if FOLD
    mean_ptr,  # [tiles, K] fp32 if STATISTICS
    square_ptr,  # [tiles, K] fp32 if STATISTICS
    n_images,
    height,
    width,
    channels,
    out_height,
    out_width,
    out_channels,
    slope,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    PROLOGUE: tl.constexpr,
    STATISTICS: tl.constexpr,
    FOLD: tl.constexpr,
    ACT: tl.constexpr,
    USE_TMA: tl.constexpr,
    BOX_N: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``y[n,p,q,k] = Σ_{r,s,c} z[n, p·stride + r − padding, q·stride + s − padding, c] · w[k,r,s,c]``.

    ``z = act(x · in_scale + in_shift)`` inside the image (PROLOGUE), else ``z = x``; 0 outside it. FOLD stores
    ``act(y · out_scale + out_shift)``. STATISTICS stores, for each tile of pixels, the mean of the rounded y and
    ``Σ (y − mean)²``.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    channels = tl.multiple_of(channels, 8)
    out_channels = tl.multiple_of(out_channels, 8)
    k_tiles = tl.cdiv(out_channels, BLOCK_K)
    tile = tl.program_id(0) // k_tiles
    k0 = (tl.program_id(0) % k_tiles) * BLOCK_K
    n0, p0, q0 = tile_origin(tile, out_height, out_width, BOX_N, BOX_H, BOX_W, BLOCK_M, USE_TMA)
    n, p, q = pixel_coordinates(tile, n0, p0, q0, out_height, out_width, BOX_H, BOX_W, BLOCK_M, USE_TMA)
    pixel_ok = n < n_images
    ks = k0 + tl.arange(0, BLOCK_K)
    k_ok = ks < out_channels
    h0 = p * STRIDE - PADDING
    w0 = q * STRIDE - PADDING

    accumulator = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    # taps inside, channels outside: the nine shifted tiles of one channel block overlap in the caches
    for step in range(TAPS * tl.cdiv(channels, BLOCK_C)):
        tap = step % TAPS
        c0 = (step // TAPS) * BLOCK_C
        r = tap // KERNEL_W
        s = tap % KERNEL_W
        cs = c0 + tl.arange(0, BLOCK_C)
        c_ok = cs < channels
        inside = (h0 + r >= 0) & (h0 + r < height) & (w0 + s >= 0) & (w0 + s < width) & pixel_ok
        if USE_TMA:
            x = x_ptr.load([n0, p0 + r - PADDING, q0 + s - PADDING, c0]).reshape(BLOCK_M, BLOCK_C)
            weight = w_ptr.load([k0, tap, c0]).reshape(BLOCK_K, BLOCK_C)
        else:
            pixels = (n.to(tl.int64) * height + h0 + r) * width + w0 + s
            x = tl.load(
                x_ptr + pixels[:, None] * channels + cs[None, :], mask=inside[:, None] & c_ok[None, :], other=0.0
            )
            weight = tl.load(
                w_ptr + (ks[:, None] * TAPS + tap) * channels + cs[None, :],
                mask=k_ok[:, None] & c_ok[None, :],
                other=0.0,
            )
        if PROLOGUE:
            scale = tl.load(in_scale_ptr + cs, mask=c_ok, other=0.0)
            shift = tl.load(in_shift_ptr + cs, mask=c_ok, other=0.0)
            z = activation(tl.fma(x.to(tl.float32), scale[None, :], shift[None, :]), ACT, slope)
            # act(shift) of a padded pixel is not 0
            x = tl.where(inside[:, None], z, 0.0).to(x.dtype)
        accumulator = tl.dot(x, weight.trans(), accumulator, input_precision=PRECISION)

    if FOLD:
        scale = tl.load(out_scale_ptr + ks, mask=k_ok, other=0.0)
        shift = tl.load(out_shift_ptr + ks, mask=k_ok, other=0.0)
        accumulator = activation(tl.fma(accumulator, scale[None, :], shift[None, :]), ACT, slope)
    y = accumulator.to(y_ptr.dtype.element_ty)
    out_pixels = (n.to(tl.int64) * out_height + p) * out_width + q
    tl.store(y_ptr + out_pixels[:, None] * out_channels + ks[None, :], y, mask=pixel_ok[:, None] & k_ok[None, :])
    if STATISTICS:
        rounded = tl.where(pixel_ok[:, None], y.to(tl.float32), 0.0)
        count = tl.minimum(n_images * out_height * out_width - tile * BLOCK_M, BLOCK_M)
        mean = tl.sum(rounded, axis=0) / count
        deviation = tl.where(pixel_ok[:, None], rounded - mean[None, :], 0.0)
        tl.store(mean_ptr + tile * out_channels + ks, mean, mask=k_ok)
        tl.store(square_ptr + tile * out_channels + ks, tl.sum(deviation * deviation, axis=0), mask=k_ok)
