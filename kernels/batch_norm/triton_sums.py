"""Adding up a backward's partial sums, in a fixed order and in the kernel that makes them."""

import triton
import triton.language as tl
from torch import Tensor

from ..last_block import LOADS_IN_FLIGHT, REDUCE_TILE, is_last_block


@triton.jit
def finish_sums(
    partials_ptr,  # [2, n_chunks, C] fp32
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    counter_ptr,  # int32, this block of channels' own, as is_last_block wants it
    programs,  # that store partials of this block of channels; each calls this once, after it stored its own
    n_chunks,
    channels,
    cols,  # [BLOCK_C], this block of channels
    col_ok,
    BLOCK_C: tl.constexpr,
):
    """``d_bias = Σ dz`` and ``d_weight = Σ dz · x̂`` over the chunks, by the last program of a block of channels."""
    if is_last_block(counter_ptr, programs):
        BLOCK_P: tl.constexpr = max(REDUCE_TILE // BLOCK_C, 1)
        sum_dz = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        sum_dz_x = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for start in tl.range(0, n_chunks, BLOCK_P * LOADS_IN_FLIGHT):
            for k in tl.static_range(LOADS_IN_FLIGHT):
                chunk = start + k * BLOCK_P + tl.arange(0, BLOCK_P)
                ok = (chunk < n_chunks)[:, None] & col_ok[None, :]
                pointers = partials_ptr + chunk[:, None] * channels + cols[None, :]
                sum_dz += tl.load(pointers, mask=ok, other=0.0, cache_modifier=".cg")
                sum_dz_x += tl.load(pointers + n_chunks * channels, mask=ok, other=0.0, cache_modifier=".cg")
        tl.store(d_bias_ptr + cols, tl.sum(sum_dz, axis=0), mask=col_ok)
        tl.store(d_weight_ptr + cols, tl.sum(sum_dz_x, axis=0), mask=col_ok)


@triton.jit
def load_sums(d_bias_ptr, d_weight_ptr, cols, col_ok, n_rows):
    """``Σ dz / M`` and ``Σ dz · x̂ / M`` as rows [1, BLOCK_C]."""
    mean_dz = tl.load(d_bias_ptr + cols, mask=col_ok, other=0.0) / n_rows.to(tl.float32)
    mean_dz_x = tl.load(d_weight_ptr + cols, mask=col_ok, other=0.0) / n_rows.to(tl.float32)
    return mean_dz[None, :], mean_dz_x[None, :]


def as_parameters(d_bias: Tensor, d_weight: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias in the weight's dtype; empty where there is no weight."""
    if weight is None:
        return d_weight.new_empty(0), d_weight.new_empty(0)
    return d_weight.to(weight.dtype), d_bias.to(weight.dtype)
