"""Triton kernel of dropout and the function that launches it."""

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import output_layout
from ..tuning.tables import tile
from .draws import GROUP, Dropping
from .triton_draws import dropping_arguments, group_bits, load_counters, sample_index

_GROUP = tl.constexpr(GROUP)


@triton.jit(do_not_specialize=["draw_stream", "threshold"])
def dropout_fwd_kernel(
    x_ptr,  # [N, pixels, channels] if CHANNELS_LAST, else [N, channels, pixels]
    out_ptr,  # the same
    seed_ptr,  # [] int64
    step_ptr,  # [] int64 or None
    indices_ptr,  # [N] int64 or None
    channels,
    groups,  # ⌈channels / 8⌉
    pixels,
    draw_stream,
    threshold,
    keep_scale,
    CHANNELS_LAST: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``out = x · keep_scale`` where an element's bits reach ``threshold``, else 0.

    Program (n, i) computes BLOCK groups of eight channels of sample n; WHOLE: there are no others.
    """
    sample = tl.program_id(0).to(tl.int64)
    if WHOLE:
        channels = groups * _GROUP  # the compiler sees from this that accesses are aligned
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # neighbouring threads read neighbouring memory
    lane = tl.arange(0, _GROUP)
    if CHANNELS_LAST:
        group, pixel = place % groups, place // groups
        if WHOLE:
            offsets = place[:, None] * _GROUP + lane[None, :]
        else:
            offsets = (pixel * channels + group * _GROUP)[:, None] + lane[None, :]
    else:
        group, pixel = place // pixels, place % pixels
        offsets = ((group * _GROUP)[:, None] + lane[None, :]) * pixels + pixel[:, None]
    ok = (place < groups * pixels)[:, None]
    if not WHOLE:
        ok = ok & ((group * _GROUP)[:, None] + lane[None, :] < channels)
    start = sample * channels * pixels
    x = tl.load(x_ptr + start + offsets, mask=ok, other=0.0).to(tl.float32)
    block = pixel * groups + group
    index = block * 0 + sample_index(indices_ptr, sample, True)
    bits = tl.reshape(group_bits(load_counters(seed_ptr, step_ptr), index, block, draw_stream), [BLOCK, _GROUP])
    out = tl.where(bits >= threshold, x * keep_scale, 0.0)
    tl.store(out_ptr + start + offsets, out.to(out_ptr.dtype.element_ty), mask=ok)


def dropout(x: Tensor, dropping: Dropping) -> Tensor:
    """``x / (1 − p)`` where an element stays, else 0."""
    layout = output_layout(x)
    x = x.contiguous(memory_format=layout)
    out = torch.empty_like(x, memory_format=layout)
    n, channels, *image = x.shape
    pixels = prod(image)
    groups = triton.cdiv(channels, GROUP)
    tiles = tile("dropout", groups * GROUP * pixels, x.device)
    block = tiles["elements"] // GROUP
    with torch.cuda.device_of(x):
        dropout_fwd_kernel[(n, triton.cdiv(groups * pixels, block))](
            x,
            out,
            channels=channels,
            groups=groups,
            pixels=pixels,
            CHANNELS_LAST=pixels == 1 or not x.is_contiguous(),
            WHOLE=channels % GROUP == 0,
            BLOCK=block,
            num_warps=tiles["num_warps"],
            **dropping_arguments(dropping),
        )
    return out
