"""What the convolution kernels share: BN and activation of a tile, and the order of pixels in a tile."""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from ..batch_norm_act.activations_triton import activate


@triton.jit
def load_affine(affine_ptr, channels, cs, c_ok):
    """Mean, scale and shift [1, BLOCK_C] of channels ``cs`` from ``affine`` [3, C]; zeros past the last."""
    mean = tl.load(affine_ptr + cs, mask=c_ok, other=0.0)[None, :]
    scale = tl.load(affine_ptr + channels + cs, mask=c_ok, other=0.0)[None, :]
    shift = tl.load(affine_ptr + 2 * channels + cs, mask=c_ok, other=0.0)[None, :]
    return mean, scale, shift


@triton.jit
def normalize(x, mean, scale, shift):
    """``BN(x)`` in fp32. Every kernel calls this, so that forward and backward see the same value to the last bit."""
    return tl.fma(x.to(tl.float32) - mean, scale, shift)


@triton.jit
def bn_act(x, mean, scale, shift, slope, ACT: tl.constexpr):
    """``act(BN(x))`` in fp32."""
    return activate(normalize(x, mean, scale, shift), slope, ACT)


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
    else:
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
    else:
        index = tile * BLOCK_M + index
        return index // width // height, index // width % height, index % width
