"""Launches the Triton kernels of the fused tail of a PyramidNet block."""

from typing import Any

import torch
import triton
from torch import Tensor

from ...batch_norm.arguments import contiguous_affine
from ...batch_norm.state import NO_NORM, BatchNormState
from ...batch_norm.triton_sums import as_parameters
from ...last_block import take_counters
from ...tuning.tables import tile
from ..draws import Scaling
from ..triton_draws import PIXEL, scaling_arguments
from .triton_kernels import (
    shakedrop_bn_shortcut_bwd_kernel,
    shakedrop_bn_shortcut_bwd_sums_kernel,
    shakedrop_bn_shortcut_fwd_kernel,
)
from .triton_moments import shakedrop_bn_shortcut_fwd_stats_kernel

# channels that one lane reads at once: 16 bytes of a half-precision type
VECTOR = 8
# a kernel that reduces has at most about so many programs: enough for every multiprocessor, few enough to add up
PROGRAMS = 512


def shakedrop_bn_shortcut_fwd(
    h: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scaling: Scaling,
    with_moments: bool,
) -> tuple[Tensor, Tensor]:
    """``shortcut(x) + (b + α − bα) · BN(h)``, channels_last, and if asked for its moments [2, C] (else empty)."""
    norm = contiguous_affine(statistics, weight, bias)
    if not with_moments:
        return _forward(h, x, norm, scaling), statistics.new_empty(0)
    moments = statistics.new_empty(2, h.shape[1])
    return _forward(h, x, norm, scaling, moments=moments), moments


def shakedrop_bn_shortcut_for_norm_fwd(
    h: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scaling: Scaling,
    next_norm: BatchNormState,
) -> tuple[Tensor, Tensor]:
    """The output and its statistics [3, C]; the running ones of ``next_norm`` are updated."""
    y_stats = statistics.new_empty(3, h.shape[1])
    norm = contiguous_affine(statistics, weight, bias)
    return _forward(h, x, norm, scaling, y_stats=y_stats, next_norm=next_norm), y_stats


def _forward(
    h: Tensor,
    x: Tensor,
    norm: tuple[Tensor, Tensor | None, Tensor | None],
    scaling: Scaling,
    *,
    moments: Tensor | None = None,
    y_stats: Tensor | None = None,
    next_norm: BatchNormState = NO_NORM,
) -> Tensor:
    """The output; its moments, and its statistics as ``next_norm`` makes them, are written where they are given."""
    h, x = _channels_last(h), _channels_last(x)
    out = torch.empty_like(h, memory_format=torch.channels_last)
    arguments = scaling_arguments(scaling)
    pool = x.shape[2:] != h.shape[2:]
    with torch.cuda.device_of(h):
        if moments is None and y_stats is None:
            grid, shape = _elementwise(h, x.shape, arguments["LEVEL"])
            shakedrop_bn_shortcut_fwd_kernel[grid](h, x, *norm, out, **shape, **arguments, POOL=pool)
            return out
        channels, in_channels = h.shape[1], x.shape[1]
        parts, shape = _reduction(h, moments_tile(channels, arguments["LEVEL"], h.device), in_channels)
        partials = norm[0].new_empty(2, parts[0] * parts[1], channels)
        counters, first_counter = take_counters(parts[2], h.device)
        shakedrop_bn_shortcut_fwd_stats_kernel[parts](
            h,
            x,
            *norm,
            out,
            partials,
            moments,
            y_stats,
            counters_ptr=counters,
            n_in_groups=in_channels // shape["GROUP"],
            width=h.shape[3],
            in_height=x.shape[2],
            in_width=x.shape[3],
            first_counter=first_counter,
            **shape,
            **arguments,
            **next_norm.kernel_arguments(),
            POOL=pool,
        )
    return out


def shakedrop_bn_shortcut_bwd(
    grad: Tensor,
    h: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    in_shape: tuple[int, ...] | None,
    by_batch: bool,
    scaling: Scaling,
    true_channels: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, weight, bias (empty without a weight) and of a pooled x of ``in_shape`` (empty for None)."""
    grad, h = _channels_last(grad), _channels_last(h)
    statistics, weight, _ = contiguous_affine(statistics, weight, None)
    grad_h = torch.empty_like(h, memory_format=torch.channels_last)
    grad_x = h.new_empty(0)
    if in_shape is not None:
        grad_x = torch.empty(in_shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)
    arguments = scaling_arguments(scaling)
    grid, shape = _elementwise(h, h.shape if in_shape is None else in_shape, arguments["LEVEL"])
    with torch.cuda.device_of(h):
        sums, sums_x = _gradient_sums(grad, h, statistics, arguments, true_channels)
        shakedrop_bn_shortcut_bwd_kernel[grid](
            grad,
            h,
            statistics,
            weight,
            sums,
            sums_x,
            grad_h,
            grad_x if in_shape is not None else None,
            n_samples=h.shape[0],
            **shape,
            **arguments,
            BY_BATCH=by_batch,
            POOL=in_shape is not None,
        )
    return grad_h, *as_parameters(sums, sums_x, weight), grad_x


def _gradient_sums(
    grad: Tensor, h: Tensor, statistics: Tensor, arguments: dict[str, Any], true_channels: int
) -> tuple[Tensor, Tensor]:
    """``Σ g`` and ``Σ g · x̂``, [C] fp32, zero from ``true_channels`` on."""
    channels = h.shape[1]
    grid, shape = _reduction(h, sums_tile(channels, arguments["LEVEL"], h.device))
    partials = statistics.new_empty(2, grid[0] * grid[1], channels)
    sums, sums_x = statistics.new_empty(channels), statistics.new_empty(channels)
    counters, first_counter = take_counters(grid[2], h.device)
    shakedrop_bn_shortcut_bwd_sums_kernel[grid](
        grad,
        h,
        statistics,
        partials,
        sums,
        sums_x,
        counters,
        true_channels=true_channels,
        first_counter=first_counter,
        **shape,
        **arguments,
    )
    return sums, sums_x


def _reduction(
    h: Tensor, tiles: dict[str, int], in_channels: int = VECTOR
) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Grid, sizes and tile of the kernels that reduce: each program takes some samples, a chunk of their pixels and a
    block of channels."""
    n, channels, height, width = h.shape
    group = VECTOR if channels % VECTOR == 0 and in_channels % VECTOR == 0 else 1
    # a sample smaller than a chunk needs no tiles past its end
    chunk = min(tiles["CHUNK"], tiles["BLOCK_P"] * triton.cdiv(height * width, tiles["BLOCK_P"]))
    n_chunks, blocks = triton.cdiv(height * width, chunk), triton.cdiv(channels, tiles["BLOCK_C"])
    samples = triton.cdiv(n * n_chunks * blocks, PROGRAMS)
    sizes = {"n_groups": channels // group, "n_pixels": height * width, "n_samples": n, "n_chunks": n_chunks}
    sizes |= {"samples": samples, "GROUP": group}
    return (triton.cdiv(n, samples), n_chunks, blocks), {**sizes, **tiles, "CHUNK": chunk}


def _elementwise(h: Tensor, in_shape: tuple[int, ...], level: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid, sizes and tile of the elementwise kernels."""
    n, channels, height, width = h.shape
    _, in_channels, in_height, in_width = in_shape
    group = VECTOR if channels % VECTOR == 0 and in_channels % VECTOR == 0 else 1
    n_groups = channels // group
    tiles = elementwise_tile(channels, n_groups, level, h.device)
    pixels = tiles["BLOCK"] // n_groups * tiles["STEPS"]
    sizes = {"n_groups": n_groups, "n_in_groups": in_channels // group, "n_pixels": height * width, "width": width}
    sizes |= {"in_height": in_height, "in_width": in_width, "GROUP": group}
    return (n, triton.cdiv(height * width, pixels)), {**sizes, **tiles}


def elementwise_tile(channels: int, n_groups: int, level: int, device: torch.device) -> dict[str, int]:
    """BLOCK lanes, which hold at least one pixel, STEPS and warps of the elementwise kernels."""
    tiles = tile("shakedrop_bn_shortcut", channels, device)
    # a generator for each element takes a register for each of its words
    steps = 1 if level == PIXEL.value else tiles["steps"]
    block = max(tiles["lanes"], triton.next_power_of_2(n_groups))
    return {"BLOCK": block, "STEPS": steps, "num_warps": tiles["num_warps"]}


def sums_tile(channels: int, level: int, device: torch.device) -> dict[str, int]:
    """CHUNK pixels, tile and warps of the kernel that sums."""
    tiles = tile("shakedrop_bn_shortcut", channels, device)
    rows = tiles["sum_rows"] // 4 if level == PIXEL.value else tiles["sum_rows"]
    return {"CHUNK": tiles["chunk"], "BLOCK_P": rows, "BLOCK_C": tiles["sum_channels"], "num_warps": tiles["num_warps"]}


def moments_tile(channels: int, level: int, device: torch.device) -> dict[str, int]:
    """As ``sums_tile``, of the kernel that returns moments: where channels are few, a thread keeps a count a row."""
    tiles = sums_tile(channels, level, device)
    return {**tiles, "BLOCK_P": min(tiles["BLOCK_P"], 64)}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
