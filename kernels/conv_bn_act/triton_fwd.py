"""The forward kernel: implicit-GEMM convolution with a fused prologue and epilogue."""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton.language as tl

from ..batch_norm_act.activations_triton import activate
from .triton_common import load_affine, multiply_add, normalize, per_size, pixel_coordinates, prologue, tile_origin


@per_size
def conv_fwd_kernel(
    x_ptr,  # [N, H, W, C]; if USE_TMA its descriptor with box [BOX_N, BOX_H, BOX_W, BLOCK_C]
    w_ptr,  # [K, R·S, C]; if USE_TMA its [K, R·S·C] descriptor with box [BLOCK_K, BLOCK_C]
    y_ptr,  # [N, P, Q, K]
    affine_ptr,  # [5, C] fp32 if PROLOGUE, [5, K] fp32 if FOLD
    partials_ptr,  # [2, tiles, K] fp32 if STATISTICS
    residual_ptr,  # [N, P, Q, K] or None; only if FOLD
    n_images,
    height,
    width,
    channel_groups,  # C / 8
    out_height,
    out_width,
    out_channel_groups,  # K / 8
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
    PIXELS_RIGHT: tl.constexpr,
    BOX_N: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``y[n,p,q,k] = Σ_{r,s,c} z[n, p·stride + r − padding, q·stride + s − padding, c] · w[k,r,s,c]``.

    ``z = act(BN(x))`` if PROLOGUE, else ``z = x``; outside the image ``z = 0``. ``BN(x) = (x − mean) · scale + shift``
    with the first rows of affine. FOLD stores ``act(BN(y) [+ residual])``. STATISTICS stores, for each tile of pixels,
    the mean of the rounded y and ``Σ (y − mean)²``.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    # the compiler sees from this that rows are 16-byte aligned
    channels = channel_groups * 8
    out_channels = out_channel_groups * 8
    k_tiles = tl.cdiv(out_channels, BLOCK_K)
    tile = tl.program_id(0) // k_tiles
    k0 = (tl.program_id(0) % k_tiles) * BLOCK_K
    n0, p0, q0 = tile_origin(tile, out_height, out_width, BOX_N, BOX_H, BOX_W, USE_TMA)
    n, p, q = pixel_coordinates(tile, n0, p0, q0, out_height, out_width, BOX_H, BOX_W, BLOCK_M, USE_TMA)
    pixel_ok = n < n_images
    ks = k0 + tl.arange(0, BLOCK_K)
    k_ok = ks < out_channels
    h0 = p * STRIDE - PADDING
    w0 = q * STRIDE - PADDING

    # PIXELS_RIGHT: both operands go from shared memory to the tensor cores. As the left one the pixels go through
    # registers, which is where the prologue needs them
    accumulator = tl.zeros([BLOCK_K, BLOCK_M] if PIXELS_RIGHT else [BLOCK_M, BLOCK_K], tl.float32)
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
            # past the last channel x is 0, whatever weight of the next tap this reads
            weight = w_ptr.load([k0, tap * channels + c0])
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
            x = prologue(x, affine_ptr, channels, cs, c_ok, inside, slope, ACT)
        if PIXELS_RIGHT:
            accumulator = multiply_add(weight, x.trans(), accumulator, PRECISION)
        else:
            accumulator = multiply_add(x, weight.trans(), accumulator, PRECISION)

    if PIXELS_RIGHT:
        accumulator = accumulator.trans()
    out_pixels = (n.to(tl.int64) * out_height + p) * out_width + q
    out_offsets = out_pixels[:, None] * out_channels + ks[None, :]
    out_ok = pixel_ok[:, None] & k_ok[None, :]
    if FOLD:
        mean, scale, shift = load_affine(affine_ptr, out_channels, ks, k_ok)
        accumulator = normalize(accumulator, mean, scale, shift)
        if residual_ptr is not None:
            accumulator += tl.load(residual_ptr + out_offsets, mask=out_ok, other=0.0).to(tl.float32)
        accumulator = activate(accumulator, slope, ACT)
    y = accumulator.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + out_offsets, y, mask=out_ok)
    if STATISTICS:
        rounded = tl.where(pixel_ok[:, None], y.to(tl.float32), 0.0)
        count = tl.minimum(n_images * out_height * out_width - tile * BLOCK_M, BLOCK_M)
        mean = tl.sum(rounded, axis=0) / count
        deviation = tl.where(pixel_ok[:, None], rounded - mean[None, :], 0.0)
        n_tiles = tl.num_programs(0) // k_tiles
        tl.store(partials_ptr + tile * out_channels + ks, mean, mask=k_ok)
        squares = tl.sum(deviation * deviation, axis=0)
        tl.store(partials_ptr + (n_tiles + tile) * out_channels + ks, squares, mask=k_ok)
