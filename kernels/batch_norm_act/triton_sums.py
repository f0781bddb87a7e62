"""Adding up a backward's partial sums in a fixed order, without atomics."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from .triton_statistics import REDUCE_CHANNELS, REDUCE_CHUNKS, REDUCE_WARPS, per_size, share


@per_size
def batch_norm_act_bwd_reduce_kernel(
    partials_ptr,  # [2, n_chunks, C] fp32
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    n_groups,
    n_chunks,
    ALIGN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``d_bias = Σ dz`` and ``d_weight = Σ dz · x̂`` over the chunks, in a fixed order."""
    channels, cols, col_ok, _, _ = share(n_groups, 1, ALIGN, BLOCK_C)
    d_bias = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    d_weight = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in tl.range(0, n_chunks, BLOCK_P):
        chunk = start + tl.arange(0, BLOCK_P)
        ok = (chunk < n_chunks)[:, None] & col_ok[None, :]
        offsets = chunk[:, None] * channels + cols[None, :]
        d_bias += tl.load(partials_ptr + offsets, mask=ok, other=0.0)
        d_weight += tl.load(partials_ptr + n_chunks * channels + offsets, mask=ok, other=0.0)
    tl.store(d_bias_ptr + cols, tl.sum(d_bias, axis=0), mask=col_ok)
    tl.store(d_weight_ptr + cols, tl.sum(d_weight, axis=0), mask=col_ok)


@triton.jit
def load_sums(d_bias_ptr, d_weight_ptr, cols, col_ok, n_rows):
    """``Σ dz / M`` and ``Σ dz · x̂ / M`` as rows [1, BLOCK_C]."""
    mean_dz = tl.load(d_bias_ptr + cols, mask=col_ok, other=0.0) / n_rows.to(tl.float32)
    mean_dz_x = tl.load(d_weight_ptr + cols, mask=col_ok, other=0.0) / n_rows.to(tl.float32)
    return mean_dz[None, :], mean_dz_x[None, :]


def reduce_sums(partials: Tensor) -> tuple[Tensor, Tensor]:
    """Sum partials [2, n_chunks, C] over the chunks: ``Σ dz`` and ``Σ dz·x̂``, both [C] fp32."""
    _, n_chunks, channels = partials.shape
    d_bias, d_weight = partials.new_empty(channels), partials.new_empty(channels)
    batch_norm_act_bwd_reduce_kernel[(triton.cdiv(channels, REDUCE_CHANNELS),)](
        partials,
        d_bias,
        d_weight,
        channels,
        n_chunks,
        ALIGN=1,
        BLOCK_P=REDUCE_CHUNKS,
        BLOCK_C=REDUCE_CHANNELS,
        num_warps=REDUCE_WARPS,
    )
    return d_bias, d_weight


def as_parameters(d_bias: Tensor, d_weight: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias in the weight's dtype; empty where there is no weight."""
    if weight is None:
        return d_weight.new_empty(0), d_weight.new_empty(0)
    return d_weight.to(weight.dtype), d_bias.to(weight.dtype)
