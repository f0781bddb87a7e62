"""What the convolution kernels share: BN and activation of a tile, and the order of pixels in a tile."""

import triton
import triton.language as tl

from ..batch_norm.activations_triton import activate

# one compilation serves every size: channels are multiples of 8 whatever they are
_SIZES = ("n_images", "height", "width", "out_height", "out_width", "channel_groups", "out_channel_groups")
_COUNTS = ("channels", "out_channels", "n_tiles", "tiles_per_split", "splits", "first_counter")
per_size = triton.jit(do_not_specialize=[*_SIZES, *_COUNTS])


@triton.jit
def normalize(x, mean, scale, shift):
    """``(x − mean) · scale + shift`` in fp32. Every kernel calls this, so forward and backward see the same bits."""
    centred = x.to(tl.float32) - mean
    return tl.fma(centred, tl.broadcast_to(scale, centred.shape), tl.broadcast_to(shift, centred.shape))


@triton.jit
def prologue(x, mean, scale, shift, c_ok, inside, slope, ACT: tl.constexpr):
    """``act(BN(x))`` of a tile [pixels, channels] of the input, rounded; outside the image 0 and not act(BN(0))."""
    z = activate(normalize(x, mean, scale, shift), slope, ACT)
    ok = inside[:, None]
    if ACT == "sigmoid":  # the others keep the zeros past the last channel
        ok = ok & c_ok[None, :]
    return tl.where(ok, z, 0.0).to(x.dtype)


@triton.jit
def multiply_add(a, b, accumulator, PRECISION: tl.constexpr):
    """``a b + accumulator`` on the tensor cores. PRECISION is tf32, tf32x3 (for fp32) or interpreted."""
    if PRECISION == "interpreted":  # the interpreter multiplies the bits of bf16
        return tl.dot(a.to(tl.float32), b.to(tl.float32), accumulator)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def tile_origin(
    tile,
    height,
    width,
    BOX_N: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BOXED: tl.constexpr,
):
    """Image, row and column where a box of pixels starts; zeros for tiles that are runs of pixels."""
    if BOXED:
        across = width // BOX_W
        down = height // BOX_H
        q0 = (tile % across) * BOX_W
        p0 = (tile // across % down) * BOX_H
        n0 = tile // (across * down) * BOX_N
        return n0, p0, q0
    return 0, 0, 0


@triton.jit
def pixel_coordinates(
    tile,
    n0,
    p0,
    q0,
    height,
    width,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BOXED: tl.constexpr,
):
    """Image, row and column [BLOCK_M] of each pixel of a tile: a box, else a run of BLOCK_M pixels in memory order."""
    index = tl.arange(0, BLOCK_M)
    if BOXED:
        return n0 + index // (BOX_H * BOX_W), p0 + index // BOX_W % BOX_H, q0 + index % BOX_W
    index = tile * BLOCK_M + index
    return index // width // height, index // width % height, index % width
