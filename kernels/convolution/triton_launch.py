"""Launching the convolution kernels: forward, gradient of the input, gradient of the weight."""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..batch_norm.norm import Norm
from ..batch_norm.state import NO_NORM, BatchNormState
from ..last_block import take_counters
from .tiles import Geometry, Tiling, tiling
from .triton_dgrad import conv_dgrad_kernel
from .triton_fwd import conv_fwd_kernel
from .triton_reduce import counters_of, rows_of
from .triton_wgrad import conv_wgrad_kernel, conv_wgrad_reduce_kernel

SIZES = ("n_images", "height", "width", "channel_groups", "out_height", "out_width", "out_channel_groups")
# fewer rows than this do not fill the tensor cores' instruction, so then pixels are the left operand
LEAST_LEFT_CHANNELS = 64
_REDUCE_BLOCK = 32


def conv_fwd(
    x: Tensor,
    weight: Tensor,
    g: Geometry,
    *,
    prologue: Norm | None = None,
    fold: Norm | None = None,
    residual: Tensor | None = None,
    next_norm: BatchNormState | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y and the statistics [3, K] that ``next_norm`` makes of it; [0] without one.

    ``prologue`` is the norm of x, ``fold`` that of y; at most one is given. ``residual`` [N, K, P, Q] is for ``fold``.
    """
    norm = prologue or fold
    assert prologue is None or fold is None
    assert residual is None or fold is not None
    x, weight = channels_last(x), channels_last(weight)
    act = "identity" if norm is None else norm.act
    t = tiling(g.op, "fwd", g.k, g.c, (g.n, g.p, g.q), (x, weight), descriptors=g.stride == 1, act=act)
    n_tiles, columns = _pixel_tiles(t, g.n, g.p, g.q), triton.cdiv(g.k, t.channels)
    y = torch.empty((g.n, g.k, g.p, g.q), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    wanted = next_norm is not None
    statistics = x.new_empty((3, g.k) if wanted else 0, dtype=torch.float32)
    partials, counters, first_counter = _rows(x, n_tiles, columns, g.k) if wanted else (None, None, 0)
    with torch.cuda.device_of(x):
        conv_fwd_kernel[(n_tiles * columns,)](
            _image(x, t, t.depth),
            _matrix(weight, (g.k, g.r * g.s * g.c), (t.channels, t.depth), t),
            y,
            *_norm_pointers(norm),
            partials,
            statistics if wanted else None,
            counters_ptr=counters,
            residual_ptr=residual if residual is None else channels_last(residual),
            **_sizes(g),
            first_counter=first_counter,
            slope=0.0 if norm is None else norm.negative_slope,
            **(next_norm or NO_NORM).kernel_arguments(),
            TAPS=g.r * g.s,
            KERNEL_W=g.s,
            STRIDE=g.stride,
            PADDING=g.padding,
            PROLOGUE=prologue is not None,
            STATISTICS=wanted,
            FOLD=fold is not None,
            ACT=act,
            PIXELS_RIGHT=prologue is None and t.channels >= LEAST_LEFT_CHANNELS,
            BLOCK_K=t.channels,
            BLOCK_C=t.depth,
            **_common(t, x),
        )
    return y, statistics


def conv_dgrad(
    dy: Tensor,
    weight: Tensor,
    g: Geometry,
    *,
    x: Tensor | None = None,
    norm: Norm | None = None,
    frozen: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return dz; with x and its norm da (frozen: dx), ``Σ da`` and ``Σ da·x̂``, both [C] fp32."""
    dy, weight = channels_last(dy), channels_last(weight)
    phase = (g.n, triton.cdiv(g.h, g.stride), triton.cdiv(g.w, g.stride))
    act = "identity" if norm is None else norm.act
    t = tiling(g.op, "dgrad", g.c, g.k, phase, (dy, weight), act=act)
    n_tiles, columns = _pixel_tiles(t, *phase) * g.stride**2, triton.cdiv(g.c, t.channels)
    dx = torch.empty((g.n, g.c, g.h, g.w), dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last)
    sums = (None, None) if norm is None else tuple(dy.new_empty(g.c, dtype=torch.float32) for _ in range(2))
    partials, counters, first_counter = (None, None, 0) if norm is None else _rows(dy, n_tiles, columns, g.c)
    with torch.cuda.device_of(dy):
        conv_dgrad_kernel[(n_tiles * columns,)](
            _image(dy, t, t.depth),
            _matrix(weight, (g.k, g.r * g.s * g.c), (t.depth, t.channels), t),
            dx,
            x if x is None else channels_last(x),
            *_norm_pointers(norm),
            partials,
            *sums,
            counters,
            **_sizes(g),
            first_counter=first_counter,
            slope=0.0 if norm is None else norm.negative_slope,
            KERNEL_H=g.r,
            KERNEL_W=g.s,
            STRIDE=g.stride,
            PADDING=g.padding,
            BN=norm is not None,
            FROZEN=frozen,
            ACT=act,
            PIXELS_RIGHT=t.channels >= LEAST_LEFT_CHANNELS,
            BLOCK_C=t.channels,
            BLOCK_K=t.depth,
            **_common(t, dy),
        )
    return dx, *sums


def conv_wgrad(x: Tensor, dy: Tensor, g: Geometry, norm: Norm | None = None) -> Tensor:
    """dw [K, C, R, S], channels_last; with x's norm of ``act(BN(x))``."""
    x, dy = channels_last(x), channels_last(dy)
    act = "identity" if norm is None else norm.act
    t = tiling(g.op, "wgrad", g.k, g.c, (g.n, g.p, g.q), (x, dy), descriptors=g.stride == 1, act=act)
    n_tiles = _pixel_tiles(t, g.n, g.p, g.q)
    taps = g.r * g.s
    blocks = taps * triton.cdiv(g.k, t.channels) * triton.cdiv(g.c, t.depth)
    per_split = triton.cdiv(n_tiles, max(1, t.programs // blocks))
    splits = triton.cdiv(n_tiles, per_split)
    partial = x.new_empty(splits, taps, g.c, g.k, dtype=torch.float32)
    dw = torch.empty((g.k, g.c, g.r, g.s), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(x):
        conv_wgrad_kernel[(blocks, splits)](
            _image(x, t, t.depth),
            _matrix(dy, (g.pixels, g.k), (t.pixels, t.channels), t),
            partial,
            *_norm_pointers(norm),
            **_sizes(g),
            n_tiles=n_tiles,
            tiles_per_split=per_split,
            slope=0.0 if norm is None else norm.negative_slope,
            TAPS=taps,
            KERNEL_W=g.s,
            STRIDE=g.stride,
            PADDING=g.padding,
            PROLOGUE=norm is not None,
            ACT=act,
            BLOCK_C=t.depth,
            BLOCK_K=t.channels,
            **_common(t, x),
        )
        conv_wgrad_reduce_kernel[(taps, triton.cdiv(g.c, _REDUCE_BLOCK), triton.cdiv(g.k, _REDUCE_BLOCK))](
            partial, dw, splits, g.c, g.k, TAPS=taps, BLOCK_C=_REDUCE_BLOCK, BLOCK_K=_REDUCE_BLOCK, num_warps=4
        )
    return dw


def channels_last(x: Tensor) -> Tensor:
    """``x`` in channels_last storage: the same tensor if it has it."""
    return x.contiguous(memory_format=torch.channels_last)


def _norm_pointers(norm: Norm | None) -> tuple[Tensor | None, ...]:
    """BN's statistics, weight and bias with unit stride, as every kernel takes them."""
    return (None, None, None) if norm is None else norm.contiguous()


def _rows(x: Tensor, n_tiles: int, columns: int, channels: int) -> tuple[Tensor, Tensor, int]:
    """Room for what the tiles store, the counters by which it is joined, and the first of these."""
    partials = x.new_empty(2, rows_of(n_tiles), channels, dtype=torch.float32)
    return partials, *take_counters(counters_of(n_tiles, columns), x.device)


def _sizes(g: Geometry) -> dict[str, int]:
    """The sizes that every kernel takes; channels in groups of 8."""
    return dict(zip(SIZES, (g.n, g.h, g.w, g.c // 8, g.p, g.q, g.k // 8), strict=True))


def _common(t: Tiling, x: Tensor) -> dict[str, Any]:
    """The compile-time settings that every kernel takes."""
    box = dict(zip(("BOX_N", "BOX_H", "BOX_W"), t.box, strict=True))
    precision = "tf32x3" if x.dtype == torch.float32 else "tf32"
    if triton.knobs.runtime.interpret:
        precision = "interpreted"
    launch = {"num_warps": t.num_warps, "num_stages": t.num_stages, "maxnreg": t.max_registers}
    return {"USE_TMA": t.descriptors, **box, "PRECISION": precision, **launch}


def _pixel_tiles(t: Tiling, n: int, height: int, width: int) -> int:
    """How many tiles of pixels there are."""
    if not t.descriptors:
        return triton.cdiv(n * height * width, t.pixels)
    images, rows, columns = t.box
    return triton.cdiv(n, images) * (height // rows) * (width // columns)


def _image(x: Tensor, t: Tiling, channels: int) -> Tensor | TensorDescriptor:
    """x [N, C, H, W] as what a kernel loads boxes of pixels from."""
    if not t.descriptors:
        return x
    n, c, h, w = x.shape
    # from the shape: the strides of dimensions of size 1 may be anything
    return TensorDescriptor(x, [n, h, w, c], [h * w * c, w * c, c, 1], [*t.box, channels])


def _matrix(x: Tensor, shape: tuple[int, int], block: tuple[int, int], t: Tiling) -> Tensor | TensorDescriptor:
    """x as the row-major matrix that its storage is, for a kernel to load blocks from."""
    return TensorDescriptor(x, list(shape), [shape[1], 1], list(block)) if t.descriptors else x
