"""Triton kernels of the sum with its statistics and of the sum with its batch norm, and what launches them."""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..activations_triton import activate
from ..batch_norm_act.triton_impl import batch_norm_act
from ..norm import Norm
from ..state import BatchNormState
from ..triton_moments import finish_moments, moments_arguments, store_moments, welford
from ..triton_statistics import as_matrix, column_block, load_affine, normalize, per_size, schedule, share

_OP = "add_batch_norm_act"


@triton.jit
def _load_sum(a_ptr, b_ptr, offsets, mask):
    """``a + b`` as it is rounded when it is stored."""
    a = tl.load(a_ptr + offsets, mask=mask, other=0.0)
    b = tl.load(b_ptr + offsets, mask=mask, other=0.0)
    return (a.to(tl.float32) + b.to(tl.float32)).to(a.dtype)


@per_size
def add_batch_norm_act_stats_kernel(
    a_ptr,  # [M, C]
    b_ptr,  # [M, C]
    s_ptr,  # [M, C]
    partials_ptr,  # [2, n_chunks, C] fp32
    stats_ptr,  # [3, C] fp32
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    count_ptr,  # [] int64 or None
    counters_ptr,
    n_rows,
    n_groups,  # C / ALIGN
    rows_per_program,
    n_chunks,
    first_counter,
    momentum,
    eps,
    CUMULATIVE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``s = a + b`` and the statistics of each channel, from each chunk's mean of ``d = s − s_0c`` and
    ``Σ (d − mean)²``.
    """
    channels, cols, col_ok, chunk, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C, LAST_FIRST=True)
    origin = _load_sum(a_ptr, b_ptr, cols, col_ok).to(tl.float32)[None, :]
    mean = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    m2 = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    k = 0.0
    for start in tl.range(0, rows_per_program, BLOCK_M, num_stages=STAGES):
        rows = first + start + tl.arange(0, BLOCK_M)
        ok = (rows < n_rows)[:, None] & col_ok[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + cols[None, :]
        s = _load_sum(a_ptr, b_ptr, offsets, ok)
        tl.store(s_ptr + offsets, s, mask=ok)
        k += 1.0
        mean, m2 = welford(s.to(tl.float32), origin, ok, mean, m2, k)
    cols, col_ok, counter_ptr = column_block(counters_ptr, first_counter, channels, BLOCK_C)
    store_moments(
        partials_ptr, mean, m2, first, n_rows, rows_per_program, chunk, n_chunks, channels, cols, col_ok, BLOCK_M
    )
    finish_moments(
        partials_ptr,
        s_ptr,
        stats_ptr,
        running_mean_ptr,
        running_var_ptr,
        count_ptr,
        counter_ptr,
        n_rows,
        rows_per_program,
        n_chunks,
        channels,
        cols,
        col_ok,
        momentum,
        eps,
        CUMULATIVE,
        BLOCK_C,
    )


@per_size
def add_batch_norm_act_fwd_kernel(
    a_ptr,  # [M, C]
    b_ptr,  # [M, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    s_ptr,  # [M, C]
    y_ptr,  # [M, C]
    n_rows,
    n_groups,  # C / ALIGN
    rows_per_program,
    negative_slope,
    HAS_AFFINE: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``s = a + b`` rounded, and ``y = act((s − mean) · rstd · weight + bias)`` of it, in fp32 and rounded once."""
    channels, cols, col_ok, _, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    for start in tl.range(0, rows_per_program, BLOCK_M, num_stages=STAGES):
        rows = first + start + tl.arange(0, BLOCK_M)
        ok = (rows < n_rows)[:, None] & col_ok[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + cols[None, :]
        s = _load_sum(a_ptr, b_ptr, offsets, ok)
        y = activate(normalize(s.to(tl.float32), affine), negative_slope, ACT)
        tl.store(s_ptr + offsets, s, mask=ok)
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=ok)


def add_batch_norm_act(a: Tensor, b: Tensor, norm: Norm, state: BatchNormState) -> tuple[Tensor, Tensor, Tensor]:
    """``s = a + b``, ``act((s − mean) · rstd · weight + bias)``, channels_last, and in training s's statistics.

    In training they are made here, and the running ones are updated; in evaluation those of ``norm`` are used, and the
    third result is empty.
    """
    a, b = as_matrix(a), as_matrix(b)
    if norm.training:
        s, statistics = _sum_and_statistics(a, b, state)
        return s, batch_norm_act(s, replace(norm, statistics=statistics)), statistics
    plan = schedule(_OP, a)
    s = torch.empty_like(a, memory_format=torch.channels_last)
    y = torch.empty_like(a, memory_format=torch.channels_last)
    with torch.cuda.device_of(a):
        add_batch_norm_act_fwd_kernel[(plan.programs,)](
            a,
            b,
            *norm.contiguous(),
            s,
            y,
            *plan.sizes,
            norm.negative_slope,
            HAS_AFFINE=norm.weight is not None,
            ACT=norm.act,
            **plan.pipelined(a),
        )
    return s, y, norm.statistics.new_empty(0)


def _sum_and_statistics(a: Tensor, b: Tensor, state: BatchNormState) -> tuple[Tensor, Tensor]:
    """``s = a + b``, channels_last, and its ``batch_norm_statistics``; update the running statistics."""
    plan = schedule(_OP, a)
    s = torch.empty_like(a, memory_format=torch.channels_last)
    stats, arguments = moments_arguments(a, plan, state)
    with torch.cuda.device_of(a):
        add_batch_norm_act_stats_kernel[(plan.programs,)](
            a,
            b,
            s,
            **arguments,
            **plan.pipelined(a),
        )
    return s, stats
