"""The kernels of the gradient of the convolution's weight, which recompute the activated input."""

import triton.language as tl

from ..batch_norm.triton_statistics import load_affine
from .triton_common import multiply_add, per_size, pixel_coordinates, prologue, tile_origin


@per_size
def conv_wgrad_kernel(
    x_ptr,  # [N, H, W, C]; if USE_TMA its descriptor with box [BOX_N, BOX_H, BOX_W, BLOCK_C]
    dy_ptr,  # [N·P·Q, K]; if USE_TMA its descriptor with box [BLOCK_M, BLOCK_K]
    partial_ptr,  # [splits, R·S, C, K] fp32
    stats_ptr,  # [3, C] fp32 if PROLOGUE: mean, its part below rounding, rstd
    weight_ptr,  # [C], BN's, or None
    bias_ptr,  # [C], BN's, or None
    n_images,
    height,
    width,
    channel_groups,  # C / 8
    out_height,
    out_width,
    out_channel_groups,  # K / 8
    n_tiles,
    tiles_per_split,
    slope,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    PROLOGUE: tl.constexpr,
    ACT: tl.constexpr,
    USE_TMA: tl.constexpr,
    BOX_N: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``partial[i,(r,s),c,k] = Σ z[n, p·stride + r − padding, q·stride + s − padding, c] · dy[n,p,q,k]`` over the tiles
    of pixels (n, p, q) of split i; z as in ``conv_fwd_kernel``.
    """
    # the compiler sees from this that rows are 16-byte aligned
    channels = channel_groups * 8
    out_channels = out_channel_groups * 8
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    k_tiles = tl.cdiv(out_channels, BLOCK_K)
    split = tl.program_id(1)
    block = tl.program_id(0)
    tap = block % TAPS
    k0 = block // TAPS % k_tiles * BLOCK_K
    c0 = block // (TAPS * k_tiles) * BLOCK_C
    r = tap // KERNEL_W
    s = tap % KERNEL_W
    cs = c0 + tl.arange(0, BLOCK_C)
    ks = k0 + tl.arange(0, BLOCK_K)
    c_ok = cs < channels
    k_ok = ks < out_channels

    if PROLOGUE:
        mean, _, _, scale, shift = load_affine(
            stats_ptr, weight_ptr, bias_ptr, cs, c_ok, channels, weight_ptr is not None
        )
    accumulator = tl.zeros([BLOCK_C, BLOCK_K], tl.float32)
    for tile in range(split * tiles_per_split, tl.minimum((split + 1) * tiles_per_split, n_tiles)):
        n0, p0, q0 = tile_origin(tile, out_height, out_width, BOX_N, BOX_H, BOX_W, USE_TMA)
        n, p, q = pixel_coordinates(tile, n0, p0, q0, out_height, out_width, BOX_H, BOX_W, BLOCK_M, USE_TMA)
        h = p * STRIDE + r - PADDING
        w = q * STRIDE + s - PADDING
        inside = (h >= 0) & (h < height) & (w >= 0) & (w < width) & (n < n_images)
        if USE_TMA:
            x = x_ptr.load([n0, p0 + r - PADDING, q0 + s - PADDING, c0]).reshape(BLOCK_M, BLOCK_C)
            dy = dy_ptr.load([tile * BLOCK_M, k0])
        else:
            pixels = (n.to(tl.int64) * height + h) * width + w
            x = tl.load(
                x_ptr + pixels[:, None] * channels + cs[None, :], mask=inside[:, None] & c_ok[None, :], other=0.0
            )
            out_pixels = tile * BLOCK_M + tl.arange(0, BLOCK_M)
            dy = tl.load(
                dy_ptr + out_pixels.to(tl.int64)[:, None] * out_channels + ks[None, :],
                mask=(n < n_images)[:, None] & k_ok[None, :],
                other=0.0,
            )
        if PROLOGUE:
            x = prologue(x, mean, scale, shift, c_ok, inside, slope, ACT)
        accumulator = multiply_add(x.trans(), dy, accumulator, PRECISION)

    rows = (split * TAPS + tap) * channels + cs
    tl.store(
        partial_ptr + rows.to(tl.int64)[:, None] * out_channels + ks[None, :],
        accumulator,
        mask=c_ok[:, None] & k_ok[None, :],
    )


@per_size
def conv_wgrad_reduce_kernel(
    partial_ptr,  # [splits, R·S, C, K] fp32
    dw_ptr,  # [K, R·S, C]
    splits,
    channels,
    out_channels,
    TAPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``dw[k,(r,s),c] = Σ_i partial[i,(r,s),c,k]``, from the first split to the last.

    The last program of each block of ``conv_wgrad_kernel`` could do it, but there are few of these: 9 blocks of 128×128
    in 28 splits would leave each 1.8 MB to read, about 15 µs for one multiprocessor, where this kernel reads all 16 MB
    with every one of them in about 4 µs, and a launch takes 2. Only below 64×64 would it be less.
    """
    tap = tl.program_id(0)
    cs = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ks = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    ok = (cs < channels)[:, None] & (ks < out_channels)[None, :]
    total = tl.zeros([BLOCK_C, BLOCK_K], tl.float32)
    for split in range(splits):
        rows = (split * TAPS + tap) * channels + cs
        total += tl.load(partial_ptr + rows.to(tl.int64)[:, None] * out_channels + ks[None, :], mask=ok, other=0.0)
    offsets = (ks[:, None].to(tl.int64) * TAPS + tap) * channels + cs[None, :]
    tl.store(dw_ptr + offsets, total.trans().to(dw_ptr.dtype.element_ty), mask=ok.trans())
