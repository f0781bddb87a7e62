"""What the convolution kernels share: activations and the order of pixels in a tile."""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def activation(a, ACT: tl.constexpr, slope):
    """``act(a)`` in fp32."""
    if ACT == "relu":
        a = tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACT == "leaky_relu":
        a = tl.where(a > 0, a, a * slope)
    elif ACT == "silu":
        a = a * tl.sigmoid(a)
    return a


@triton.jit
def activation_slope(a, ACT: tl.constexpr, slope):
    """``act′(a)`` in fp32; 0 (for leaky_relu the slope) at 0, as in torch."""
    if ACT == "relu":
        return tl.where(a > 0, 1.0, 0.0)
    elif ACT == "leaky_relu":
        return tl.where(a > 0, 1.0, slope)
    elif ACT == "silu":
        sigmoid = tl.sigmoid(a)
        return sigmoid * (1.0 + a * (1.0 - sigmoid))
    else:
        return tl.full(a.shape, 1.0, tl.float32)


@triton.jit
def tile_origin(
    tile,
    height,
    width,
    BOX_N: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BLOCK_M: tl.constexpr,
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
