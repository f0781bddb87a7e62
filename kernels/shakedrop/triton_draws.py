"""The coefficients of ShakeDrop inside a Triton kernel: the same numbers, bit for bit, as ``draws.py``."""

from typing import Any

import triton
import triton.language as tl

from .draws import LEVELS, Scaling

# LEVEL of a kernel: 0 is a constant coefficient, then the place in LEVELS counted from 1
BATCH = tl.constexpr(1)
CHANNEL = tl.constexpr(3)
PIXEL = tl.constexpr(4)


@triton.jit
def _draw(seed_ptr, step_ptr, index, block, draw_stream):
    """The four words of the counter (index, step, draw_stream, block)."""
    step = 0
    if step_ptr is not None:
        step = tl.load(step_ptr).to(tl.int32)
    return tl.philox(tl.load(seed_ptr), index + block * 0, block * 0 + step, block * 0 + draw_stream, block)


@triton.jit
def _uniform24(word):
    """The upper 24 bits of a word as a signed number."""
    return (word >> 8).to(tl.int32)


@triton.jit
def coefficient(
    seed_ptr,  # [] int64 if LEVEL
    step_ptr,  # [] int64 or None
    indices_ptr,  # [N] int64 or None
    sample,  # position in the batch
    block,  # int32 of any shape: 0 if LEVEL is batch or image, else the last word of the counter
    keep,  # p if LEVEL is 0, else what the 24 bits of b's number must be below
    draw_stream,
    BACKWARD: tl.constexpr,
    LEVEL: tl.constexpr,
    KEEP_BATCH: tl.constexpr,
):
    """``b + α − b·α`` or, if BACKWARD, ``b + β − b·β``; p if LEVEL is 0. fp32, of block's shape."""
    if LEVEL == 0:
        scale = keep + block * 0.0
    else:
        index = sample.to(tl.int32)
        if indices_ptr is not None:
            index = tl.load(indices_ptr + sample).to(tl.int32)
        w0, w1, w2, _ = _draw(seed_ptr, step_ptr, index * (LEVEL != BATCH), block, draw_stream)
        if LEVEL >= CHANNEL or (LEVEL == BATCH) != KEEP_BATCH:
            w0, _, _, _ = _draw(seed_ptr, step_ptr, index * (not KEEP_BATCH), index * 0, draw_stream)
        if BACKWARD:
            scale = _uniform24(w2).to(tl.float32) * 5.9604644775390625e-08
        else:
            scale = _uniform24(w1).to(tl.float32) * 1.1920928955078125e-07 - 1.0
        scale = tl.where(_uniform24(w0) < keep, 1.0, scale)
    return scale


def scaling_arguments(scaling: Scaling) -> dict[str, Any]:
    """The keyword arguments of a kernel that describe the coefficient."""
    return {
        "seed_ptr": scaling.seed,
        "step_ptr": scaling.step,
        "indices_ptr": None if scaling.indices is None else scaling.indices.contiguous(),
        "keep": scaling.keep_probability if scaling.seed is None else scaling.keep_threshold,
        "draw_stream": scaling.stream,
        "LEVEL": 0 if scaling.seed is None else 1 + LEVELS.index(scaling.level),
        "KEEP_BATCH": scaling.keep_level == "batch",
    }
