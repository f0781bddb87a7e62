"""Launches the Triton kernels of the fused tail of a PyramidNet block."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ...batch_norm.norm import Norm
from ...batch_norm.state import BatchNormState
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


def shakedrop_bn_shortcut(
    h: Tensor,
    x: Tensor,
    norm: Norm,
    scaling: Scaling,
    true_channels: int,
    next_norm: BatchNormState,
    wants_statistics: bool,
) -> tuple[Tensor, Tensor]:
    """``shortcut(x) + (b + α − bα) · BN(h)``, channels_last, and its statistics if asked for (else empty); the running
    ones of ``next_norm`` are updated.
    """
    h, x = _channels_last(h), _channels_last(x)
    out = torch.empty_like(h, memory_format=torch.channels_last)
    arguments = scaling_arguments(scaling) | {"POOL": x.shape[2:] != h.shape[2:]}
    with torch.cuda.device_of(h):
        if not wants_statistics:
            grid, shape = _elementwise(h, x.shape, arguments["LEVEL"])
            shakedrop_bn_shortcut_fwd_kernel[grid](h, x, *norm.contiguous(), out, **shape, **arguments)
            return out, norm.statistics.new_empty(0)
        channels, in_channels = h.shape[1], x.shape[1]
        statistics = norm.statistics.new_empty(3, channels)
        tiles = sums_tile(channels, arguments["LEVEL"], h.device)
        tiles["BLOCK_P"] = min(tiles["BLOCK_P"], 64)  # where channels are few, a thread keeps a count a row
        parts, shape = _reduction(h, tiles, in_channels)
        partials = statistics.new_empty(2, parts[0] * parts[1], channels)
        counters, first_counter = take_counters(parts[2], h.device)
        shakedrop_bn_shortcut_fwd_stats_kernel[parts](
            h,
            x,
            *norm.contiguous(),
            out,
            partials,
            statistics,
            counters_ptr=counters,
            n_in_groups=in_channels // shape["GROUP"],
            width=h.shape[3],
            in_height=x.shape[2],
            in_width=x.shape[3],
            first_counter=first_counter,
            **shape,
            **arguments,
            **next_norm.kernel_arguments(),
        )
    return out, statistics


def shakedrop_bn_shortcut_backward(
    grad: Tensor, h: Tensor, norm: Norm, scaling: Scaling, true_channels: int, in_shape: list[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, weight, bias (empty without a weight) and of a pooled x of ``in_shape`` (empty for None)."""
    grad, h = _channels_last(grad), _channels_last(h)
    statistics, weight, _ = norm.contiguous()
    grad_h = torch.empty_like(h, memory_format=torch.channels_last)
    grad_x = h.new_empty(0)
    if in_shape is not None:
        grad_x = torch.empty(in_shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)
    arguments = scaling_arguments(scaling)
    grid, shape = _elementwise(h, in_shape or h.shape, arguments["LEVEL"])
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
            BY_BATCH=norm.training,
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


def _elementwise(h: Tensor, in_shape: Sequence[int], level: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid, sizes and tile of the elementwise kernels."""
    n, channels, height, width = h.shape
    _, in_channels, in_height, in_width = in_shape
    group = VECTOR if channels % VECTOR == 0 and in_channels % VECTOR == 0 else 1
    n_groups = channels // group
    tiles = tile("shakedrop_bn_shortcut", channels, h.device)
    # lanes that hold at least one pixel; a generator for each element takes a register for each of its words
    block, steps = max(tiles["lanes"], triton.next_power_of_2(n_groups)), 1 if level == PIXEL.value else tiles["steps"]
    pixels = block // n_groups * steps
    sizes = {"n_groups": n_groups, "n_in_groups": in_channels // group, "n_pixels": height * width, "width": width}
    sizes |= {"in_height": in_height, "in_width": in_width, "GROUP": group}
    sizes |= {"BLOCK": block, "STEPS": steps, "num_warps": tiles["num_warps"]}
    return (n, triton.cdiv(height * width, pixels)), sizes


def sums_tile(channels: int, level: int, device: torch.device) -> dict[str, int]:
    """CHUNK pixels, tile and warps of the kernel that sums."""
    tiles = tile("shakedrop_bn_shortcut", channels, device)
    rows = tiles["sum_rows"] // 4 if level == PIXEL.value else tiles["sum_rows"]
    return {"CHUNK": tiles["chunk"], "BLOCK_P": rows, "BLOCK_C": tiles["sum_channels"], "num_warps": tiles["num_warps"]}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
