"""The forward kernel: implicit-GEMM convolution with a fused prologue and epilogue."""

import triton.language as tl

from ..batch_norm.activations_triton import activate
from ..batch_norm.triton_statistics import load_affine
from .triton_common import multiply_add, normalize, per_size, pixel_coordinates, prologue, tile_origin
from .triton_reduce import arrive_in_group, finish_moments, own_counters, store_row


@per_size
def conv_fwd_kernel(
    x_ptr,  # [N, H, W, C]; if USE_TMA its descriptor with box [BOX_N, BOX_H, BOX_W, BLOCK_C]
    w_ptr,  # [K, R·S, C]; if USE_TMA its [K, R·S·C] descriptor with box [BLOCK_K, BLOCK_C]
    y_ptr,  # [N, P, Q, K]
    stats_ptr,  # [3, C] fp32 if PROLOGUE, [3, K] fp32 if FOLD: mean, its part below rounding, rstd
    weight_ptr,  # BN's, with as many elements as a row of stats, or None
    bias_ptr,  # the same
    partials_ptr,  # [2, tiles and groups of tiles, K] fp32 if STATISTICS
    y_stats_ptr,  # [3, K] fp32 if STATISTICS
    running_mean_ptr,  # [K] or None: of the batch norm that normalises y
    running_var_ptr,  # [K] or None
    count_ptr,  # [] int64 or None
    counters_ptr,  # if STATISTICS
    residual_ptr,  # [N, P, Q, K] or None; only if FOLD
    n_images,
    height,
    width,
    channel_groups,  # C / 8
    out_height,
    out_width,
    out_channel_groups,  # K / 8
    first_counter,
    momentum,
    eps,
    slope,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    PROLOGUE: tl.constexpr,
    STATISTICS: tl.constexpr,
    CUMULATIVE: tl.constexpr,
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
    as ``load_affine`` has them. FOLD stores ``act(BN(y) [+ residual])``. STATISTICS stores, for each tile of pixels,
    the mean of the rounded y and ``Σ (y − mean)²``, which the last programs join to those of y, and what
    ``store_statistics`` makes of them.
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
    if PROLOGUE:
        mean = tl.zeros([1, BLOCK_C], tl.float32)
        scale = tl.zeros([1, BLOCK_C], tl.float32)
        shift = tl.zeros([1, BLOCK_C], tl.float32)
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
            # the other taps find them in registers; without descriptors addresses take these
            if not USE_TMA or tap == 0:
                mean, _, _, scale, shift = load_affine(
                    stats_ptr, weight_ptr, bias_ptr, cs, c_ok, channels, weight_ptr is not None
                )
            x = prologue(x, mean, scale, shift, c_ok, inside, slope, ACT)
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
        mean, _, _, scale, shift = load_affine(
            stats_ptr, weight_ptr, bias_ptr, ks, k_ok, out_channels, weight_ptr is not None
        )
        accumulator = normalize(accumulator, mean, scale, shift)
        if residual_ptr is not None:
            accumulator += tl.load(residual_ptr + out_offsets, mask=out_ok, other=0.0).to(tl.float32)
        accumulator = activate(accumulator, slope, ACT)
    y = accumulator.to(y_ptr.dtype.element_ty)
    if STATISTICS:
        pixels = n_images * out_height * out_width
        n_tiles = tl.num_programs(0) // k_tiles
        rounded = tl.where(pixel_ok[:, None], y.to(tl.float32), 0.0)
        count = tl.minimum(pixels - tile * BLOCK_M, BLOCK_M)
        tile_mean = tl.sum(rounded, axis=0) / count
        deviation = tl.where(pixel_ok[:, None], rounded - tile_mean[None, :], 0.0)
        store_row(partials_ptr, tile, n_tiles, out_channels, ks, k_ok, tile_mean, tl.sum(deviation * deviation, axis=0))
    tl.store(y_ptr + out_offsets, y, mask=out_ok)
    if STATISTICS:
        counters_ptr = own_counters(counters_ptr, first_counter, tl.program_id(0) % k_tiles, n_tiles)
        if arrive_in_group(counters_ptr, tile, n_tiles):
            finish_moments(
                partials_ptr,
                y_stats_ptr,
                running_mean_ptr,
                running_var_ptr,
                count_ptr,
                counters_ptr,
                tile,
                n_tiles,
                pixels,
                momentum,
                eps,
                out_channels,
                ks,
                k_ok,
                CUMULATIVE,
                BLOCK_M,
                BLOCK_K,
            )
