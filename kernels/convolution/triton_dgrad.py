"""The kernel of the gradient of the convolution's input, with the activation's mask and BN's sums in its epilogue."""

import triton.language as tl

from ..batch_norm.triton_backward import through_activation
from ..batch_norm.triton_statistics import load_affine
from .triton_common import multiply_add, normalize, per_size, pixel_coordinates, tile_origin
from .triton_reduce import arrive_in_group, finish_sums, own_counters, store_row


@per_size
def conv_dgrad_kernel(
    dy_ptr,  # [N, P, Q, K]; if USE_TMA its descriptor with box [BOX_N, BOX_H, BOX_W, BLOCK_K]
    w_ptr,  # [K, R·S·C]; if USE_TMA its descriptor with box [BLOCK_K, BLOCK_C]
    dx_ptr,  # [N, H, W, C]
    x_ptr,  # [N, H, W, C] if BN
    stats_ptr,  # [3, C] fp32 if BN: mean, its part below rounding, rstd
    weight_ptr,  # [C], BN's, or None
    bias_ptr,  # [C], BN's, or None
    partials_ptr,  # [2, tiles and groups of tiles, C] fp32 if BN
    d_bias_ptr,  # [C] fp32 if BN
    d_weight_ptr,  # [C] fp32 if BN
    counters_ptr,  # if BN
    n_images,
    height,
    width,
    channel_groups,  # C / 8
    out_height,
    out_width,
    out_channel_groups,  # K / 8
    first_counter,
    slope,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BN: tl.constexpr,
    FROZEN: tl.constexpr,
    ACT: tl.constexpr,
    USE_TMA: tl.constexpr,
    PIXELS_RIGHT: tl.constexpr,
    BOX_N: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``dz[n,h,w,c] = Σ_{r,s,k} dy[n, (h + padding − r) / stride, (w + padding − s) / stride, k] · w[k,r,s,c]``, over
    the r and s for which the divisions are exact.

    Without BN it is stored. With BN, ``da = dz · act′(BN(x))`` is stored (FROZEN: da · scale) and, for each tile of
    pixels, ``Σ da`` and ``Σ da · x̂``, which the last programs add up; BN, scale and x̂ as ``load_affine`` has them.
    The pixels of a tile are of one phase, that is they have h mod stride and w mod stride in common, and with them the
    taps.
    """
    # the compiler sees from this that rows are 16-byte aligned
    channels = channel_groups * 8
    out_channels = out_channel_groups * 8
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    PHASES: tl.constexpr = STRIDE * STRIDE
    phase_height = tl.cdiv(height, STRIDE)
    phase_width = tl.cdiv(width, STRIDE)
    c_tiles = tl.cdiv(channels, BLOCK_C)
    row = tl.program_id(0) // c_tiles
    c0 = (tl.program_id(0) % c_tiles) * BLOCK_C
    tile = row // PHASES
    phase_h = row % PHASES // STRIDE
    phase_w = row % STRIDE
    n0, i0, j0 = tile_origin(tile, phase_height, phase_width, BOX_N, BOX_H, BOX_W, USE_TMA)
    n, i, j = pixel_coordinates(tile, n0, i0, j0, phase_height, phase_width, BOX_H, BOX_W, BLOCK_M, USE_TMA)
    # the first tap of the phase, and where it looks: p = i + down − (number of taps after the first)
    r0 = (phase_h + PADDING) % STRIDE
    s0 = (phase_w + PADDING) % STRIDE
    down = (phase_h + PADDING) // STRIDE
    right = (phase_w + PADDING) // STRIDE
    taps_h = (KERNEL_H - r0 + STRIDE - 1) // STRIDE
    taps_w = (KERNEL_W - s0 + STRIDE - 1) // STRIDE
    taps = taps_h * taps_w
    cs = c0 + tl.arange(0, BLOCK_C)
    c_ok = cs < channels

    accumulator = tl.zeros([BLOCK_C, BLOCK_M] if PIXELS_RIGHT else [BLOCK_M, BLOCK_C], tl.float32)
    for step in range(taps * tl.cdiv(out_channels, BLOCK_K)):
        tap = step % taps
        k0 = step // taps * BLOCK_K
        u = tap // taps_w
        v = tap % taps_w
        column = ((r0 + u * STRIDE) * KERNEL_W + s0 + v * STRIDE) * channels
        if USE_TMA:
            dy = dy_ptr.load([n0, i0 + down - u, j0 + right - v, k0]).reshape(BLOCK_M, BLOCK_K)
            weight = w_ptr.load([k0, column + c0])
        else:
            ks = k0 + tl.arange(0, BLOCK_K)
            k_ok = ks < out_channels
            p = i + down - u
            q = j + right - v
            inside = (p >= 0) & (p < out_height) & (q >= 0) & (q < out_width) & (n < n_images)
            pixels = (n.to(tl.int64) * out_height + p) * out_width + q
            dy = tl.load(
                dy_ptr + pixels[:, None] * out_channels + ks[None, :], mask=inside[:, None] & k_ok[None, :], other=0.0
            )
            weight = tl.load(
                w_ptr + ks[:, None] * (KERNEL_H * KERNEL_W * channels) + column + cs[None, :],
                mask=k_ok[:, None] & c_ok[None, :],
                other=0.0,
            )
        # PIXELS_RIGHT: both operands go from shared memory to the tensor cores
        if PIXELS_RIGHT:
            accumulator = multiply_add(weight.trans(), dy.trans(), accumulator, PRECISION)
        else:
            accumulator = multiply_add(dy, weight, accumulator, PRECISION)

    h = i * STRIDE + phase_h
    w = j * STRIDE + phase_w
    ok = ((n < n_images) & (h < height) & (w < width))[:, None] & c_ok[None, :]
    offsets = ((n.to(tl.int64) * height + h) * width + w)[:, None] * channels + cs[None, :]
    dx = accumulator.trans() if PIXELS_RIGHT else accumulator
    if BN:
        x = tl.load(x_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
        mean, rstd, offset, scale, shift = load_affine(
            stats_ptr, weight_ptr, bias_ptr, cs, c_ok, channels, weight_ptr is not None
        )
        a = normalize(x, mean, scale, shift)
        dx = tl.where(ok, through_activation(dx, a, slope, x_ptr.dtype.element_ty, ACT), 0.0)
    stored = dx * scale if BN and FROZEN else dx
    tl.store(dx_ptr + offsets, stored.to(dx_ptr.dtype.element_ty), mask=ok)
    if BN:  # after dx is stored: meanwhile its stores arrive, which being counted waits for
        dot = tl.sum(dx * normalize(x, mean, rstd, offset), axis=0)
        n_rows = tl.num_programs(0) // c_tiles
        store_row(partials_ptr, row, n_rows, channels, cs, c_ok, tl.sum(dx, axis=0), dot)
        counters_ptr = own_counters(counters_ptr, first_counter, tl.program_id(0) % c_tiles, n_rows)
        if arrive_in_group(counters_ptr, row, n_rows):
            finish_sums(partials_ptr, d_bias_ptr, d_weight_ptr, counters_ptr, row, n_rows, channels, cs, c_ok, BLOCK_C)
