"""The draws of dropout inside a Triton kernel: the same bits as ``draws.py``."""

from typing import Any

import triton
import triton.language as tl

from .draws import GROUP, Dropping

_GROUP = tl.constexpr(GROUP)


@triton.jit
def load_counters(seed_ptr, step_ptr):
    """The key and the counter's second word, scalars."""
    step = 0
    if step_ptr is not None:
        step = tl.load(step_ptr).to(tl.int32)
    return tl.load(seed_ptr), step


@triton.jit
def sample_index(indices_ptr, samples, ok):
    """The counter's first word of samples at these places of the batch."""
    index = samples.to(tl.int32)
    if indices_ptr is not None:
        index = tl.load(indices_ptr + samples, mask=ok, other=0).to(tl.int32)
    return index


@triton.jit
def _halves(word):
    """The lower and the upper 16 bits of words, int32 [*, 2]."""
    return tl.join((word & 0xFFFF).to(tl.int32), (word >> 16).to(tl.int32))


@triton.jit
def group_bits(counters, index, block, draw_stream):
    """16 random bits for each of the eight elements of groups: int32 [*, 2, 2, 2].

    ``index`` and ``block``, int32 [*], are the first and the last word of each group's counter.
    """
    seed, step = counters
    nothing = block * 0
    w0, w1, w2, w3 = tl.philox(seed, index, nothing + step, nothing + draw_stream, block)
    # a join adds the dimension that changes fastest: element = 4 · half + word
    return tl.join(tl.join(_halves(w0), _halves(w2)), tl.join(_halves(w1), _halves(w3)))


@triton.jit
def drop_tile(values, dropping, rows, row_ok, cols, channels, pixels):
    """``values · keep_scale`` where an element stays, else 0: fp32 [BLOCK_M, BLOCK_C] of the matrix [N · pixels, C].

    ``dropping`` has what ``load_counters`` returned, ``indices_ptr``, ``draw_stream``, ``threshold``, ``keep_scale``;
    ``cols`` begin at a multiple of eight.
    """
    counters, indices_ptr, draw_stream, threshold, keep_scale = dropping
    BLOCK_M: tl.constexpr = values.shape[0]
    BLOCK_C: tl.constexpr = values.shape[1]
    groups = tl.min(tl.reshape(cols, [BLOCK_C // _GROUP, _GROUP]), axis=1) // _GROUP
    samples = rows // pixels
    block = (rows - samples * pixels)[:, None] * tl.cdiv(channels, _GROUP) + groups[None, :]
    index = sample_index(indices_ptr, samples, row_ok)[:, None] + block * 0
    bits = tl.reshape(group_bits(counters, index, block, draw_stream), [BLOCK_M, BLOCK_C])
    return tl.where(bits >= threshold, values * keep_scale, 0.0)


def dropping_arguments(dropping: Dropping) -> dict[str, Any]:
    """The keyword arguments of a kernel that describe what it drops."""
    return {
        "seed_ptr": dropping.seed,
        "step_ptr": dropping.step,
        "indices_ptr": None if dropping.indices is None else dropping.indices.contiguous(),
        "draw_stream": dropping.stream,
        "threshold": dropping.threshold,
        "keep_scale": dropping.scale,
    }
