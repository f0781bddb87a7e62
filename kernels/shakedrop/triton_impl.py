"""Triton kernels of ShakeDrop and the functions that launch them."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import output_layout
from ..tuning.tables import tile
from .draws import Scaling
from .triton_draws import CHANNEL, PIXEL, coefficient, scaling_arguments

# elements that one thread reads at once: 16 bytes of a half-precision type
VECTOR = 8


@triton.jit
def _offsets(n_groups, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets [BLOCK, GROUP] into a sample of ``n_groups · GROUP`` elements, and which of them exist."""
    group = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    return offsets, (group < n_groups)[:, None]


@triton.jit
def _draw_block(offsets, n_channels, n_pixels, LEVEL: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """The last word of the counter of every element's α and β: 0 where they do not depend on the element."""
    block = tl.program_id(1) * 0
    if LEVEL >= CHANNEL:
        if CHANNELS_LAST:
            channel, pixel = offsets % n_channels, offsets // n_channels
        else:
            channel, pixel = offsets // n_pixels, offsets % n_pixels
        block = 1 + channel
        if LEVEL == PIXEL:
            block += pixel * n_channels
    return block


@triton.jit(do_not_specialize=["keep"])
def shakedrop_fwd_kernel(
    shortcut_ptr,  # [N, n_groups · GROUP], like branch and out
    branch_ptr,
    out_ptr,
    seed_ptr,
    step_ptr,
    indices_ptr,
    n_groups,
    n_channels,
    n_pixels,
    keep,
    draw_stream,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``out = shortcut + (b + α − b·α) · branch``; program (n, i) computes BLOCK groups of sample n."""
    sample = tl.program_id(0).to(tl.int64)
    offsets, ok = _offsets(n_groups, GROUP, BLOCK)
    start = sample * n_groups * GROUP
    shortcut = tl.load(shortcut_ptr + start + offsets, mask=ok, other=0.0).to(tl.float32)
    branch = tl.load(branch_ptr + start + offsets, mask=ok, other=0.0).to(tl.float32)
    block = _draw_block(offsets, n_channels, n_pixels, LEVEL, CHANNELS_LAST)
    scale = coefficient(seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, False, LEVEL, KEEP_BATCH)
    out = shortcut + scale * branch
    tl.store(out_ptr + start + offsets, out.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["keep"])
def shakedrop_bwd_kernel(
    grad_ptr,  # [N, n_groups · GROUP], like out
    out_ptr,
    seed_ptr,
    step_ptr,
    indices_ptr,
    n_groups,
    n_channels,
    n_pixels,
    keep,
    draw_stream,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``out = (b + β − b·β) · grad``; program (n, i) computes BLOCK groups of sample n."""
    sample = tl.program_id(0).to(tl.int64)
    offsets, ok = _offsets(n_groups, GROUP, BLOCK)
    start = sample * n_groups * GROUP
    grad = tl.load(grad_ptr + start + offsets, mask=ok, other=0.0).to(tl.float32)
    block = _draw_block(offsets, n_channels, n_pixels, LEVEL, CHANNELS_LAST)
    scale = coefficient(seed_ptr, step_ptr, indices_ptr, sample, block, keep, draw_stream, True, LEVEL, KEEP_BATCH)
    tl.store(out_ptr + start + offsets, (scale * grad).to(out_ptr.dtype.element_ty), mask=ok)


def shakedrop(shortcut: Tensor, branch: Tensor, scaling: Scaling) -> Tensor:
    """``shortcut + (b + α − bα) · branch``."""
    layout = output_layout(branch)
    shortcut, branch = shortcut.contiguous(memory_format=layout), branch.contiguous(memory_format=layout)
    out = torch.empty_like(branch, memory_format=layout)
    _launch(shakedrop_fwd_kernel, (shortcut, branch, out), scaling)
    return out


def shakedrop_backward(grad: Tensor, scaling: Scaling) -> Tensor:
    """``(b + β − bβ) · grad``, the branch's gradient."""
    layout = output_layout(grad)
    out = torch.empty_like(grad, memory_format=layout)
    _launch(shakedrop_bwd_kernel, (grad.contiguous(memory_format=layout), out), scaling)
    return out


def _launch(kernel: Any, tensors: tuple[Tensor, ...], scaling: Scaling) -> None:
    """Run an elementwise kernel on dense tensors of the same layout."""
    n, channels, *_ = tensors[0].shape
    elements = tensors[0].numel() // n
    group = VECTOR if elements % VECTOR == 0 else 1
    arguments = scaling_arguments(scaling)
    tiles = tile("shakedrop", elements, tensors[0].device)
    # a generator for each element takes a register for each of its words
    block = tiles["elements"] // (4 if arguments["LEVEL"] >= CHANNEL.value else 1) // group
    with torch.cuda.device_of(tensors[0]):
        kernel[(n, triton.cdiv(elements // group, block))](
            *tensors,
            n_groups=elements // group,
            n_channels=channels,
            n_pixels=elements // channels,
            CHANNELS_LAST=not tensors[0].is_contiguous(),
            GROUP=group,
            BLOCK=block,
            num_warps=tiles["num_warps"],
            **arguments,
        )
