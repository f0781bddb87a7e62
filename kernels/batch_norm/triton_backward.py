"""Triton kernels of the backward of batch norm with activation and residual, and the functions that launch them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dropout.draws import NO_DROPOUT, Dropping
from ..dropout.triton_draws import drop_tile, dropping_arguments, load_counters
from ..last_block import take_counters
from .activations_triton import derivative
from .norm import Norm
from .triton_statistics import (
    Schedule,
    as_matrix,
    column_block,
    load_affine,
    normalize,
    per_size,
    schedule,
    share,
    standardize,
)
from .triton_sums import finish_sums, load_sums

Sums = tuple[Tensor, Tensor]


@triton.jit
def _load_gradient(grad_ptr, rows, offsets, cols, channels, ok, pixels, AVERAGED: tl.constexpr):
    """The output's gradient; if AVERAGED, a row's is that of its image divided by the image's pixels."""
    if AVERAGED:
        images = (rows // pixels).to(tl.int64)
        grad = tl.load(grad_ptr + images[:, None] * channels + cols[None, :], mask=ok, other=0.0)
        return grad.to(tl.float32) / pixels
    return tl.load(grad_ptr + offsets, mask=ok, other=0.0).to(tl.float32)


@triton.jit
def through_activation(grad, z, negative_slope, dtype: tl.constexpr, ACT: tl.constexpr):
    """``grad · act′(z)``, 0 where a relu masks a gradient of any size; the side of a piecewise activation is that of z
    in the output's dtype.
    """
    slope = derivative(z, z.to(dtype).to(tl.float32) > 0, negative_slope, ACT)
    dz = grad * slope
    # of the ways to write it the one that costs the fewest registers
    return tl.where(slope == 0, 0.0, dz) if ACT == "relu" else dz


@triton.jit
def through_batch_norm(dz, x, affine, mean_dz, mean_dz_x, TRAINING: tl.constexpr):
    """``rstd · weight · (dz − (Σ dz + x̂ · Σ dz·x̂) / M)``; without sums in eval."""
    if TRAINING:
        dz -= mean_dz + standardize(x, affine) * mean_dz_x
    return dz * affine[3]


@per_size
def batch_norm_act_bwd_sums_kernel(
    grad_ptr,  # [M, C]; if AVERAGED [N, C]
    x_ptr,  # [M, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    saved_ptr,  # [M, C]: y or the residual, as SAVED says
    dz_ptr,  # [M, C] if STORE
    partials_ptr,  # [2, n_chunks, C] fp32
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    counters_ptr,
    n_rows,
    n_groups,
    rows_per_program,
    n_chunks,
    pixels,
    first_counter,
    negative_slope,
    seed_ptr,  # [] int64, or None: nothing is dropped
    step_ptr,  # [] int64 or None
    indices_ptr,  # [N] int64 or None
    draw_stream,
    threshold,
    keep_scale,
    HAS_AFFINE: tl.constexpr,
    SAVED: tl.constexpr,
    STORE: tl.constexpr,
    AVERAGED: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``d_bias = Σ dz`` and ``d_weight = Σ dz · x̂`` with ``dz = drop(grad) · act′(z)``; dz itself if STORE."""
    channels, cols, col_ok, chunk, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C, LAST_FIRST=True)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    sum_dz = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    sum_dz_x = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    if seed_ptr is not None:
        dropping = (load_counters(seed_ptr, step_ptr), indices_ptr, draw_stream, threshold, keep_scale)
    for start in tl.range(0, rows_per_program, BLOCK_M, num_stages=STAGES):
        rows = first + start + tl.arange(0, BLOCK_M)
        ok = (rows < n_rows)[:, None] & col_ok[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + cols[None, :]
        x = tl.load(x_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
        grad = _load_gradient(grad_ptr, rows, offsets, cols, channels, ok, pixels, AVERAGED)
        if seed_ptr is not None:
            grad = drop_tile(grad, dropping, rows, rows < n_rows, cols, channels, pixels)
        if SAVED == "output":
            y = tl.load(saved_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
            dz = through_activation(grad, y, negative_slope, dtype, ACT)
        else:
            z = normalize(x, affine)
            if SAVED == "residual":
                z += tl.load(saved_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
            dz = through_activation(grad, z, negative_slope, dtype, ACT)
        if STORE:
            tl.store(dz_ptr + offsets, dz.to(dtype), mask=ok)
        sum_dz += dz
        sum_dz_x += dz * standardize(x, affine)
    cols, col_ok, counter_ptr = column_block(counters_ptr, first_counter, channels, BLOCK_C)
    out = chunk * channels + cols
    tl.store(partials_ptr + out, tl.sum(sum_dz, axis=0), mask=col_ok)
    tl.store(partials_ptr + n_chunks * channels + out, tl.sum(sum_dz_x, axis=0), mask=col_ok)
    finish_sums(
        partials_ptr, d_bias_ptr, d_weight_ptr, counter_ptr, n_chunks, n_chunks, channels, cols, col_ok, BLOCK_C
    )


@per_size
def batch_norm_act_bwd_kernel(
    grad_ptr,  # [M, C]; if AVERAGED [N, C]
    x_ptr,  # [M, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    dx_ptr,  # [M, C]
    n_rows,
    n_groups,
    rows_per_program,
    pixels,
    negative_slope,
    seed_ptr,  # [] int64, or None: nothing is dropped
    step_ptr,  # [] int64 or None
    indices_ptr,  # [N] int64 or None
    draw_stream,
    threshold,
    keep_scale,
    HAS_AFFINE: tl.constexpr,
    TRAINING: tl.constexpr,
    AVERAGED: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """dx of ``dz = drop(grad) · act′(z)``."""
    channels, cols, col_ok, _, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    mean_dz, mean_dz_x = load_sums(d_bias_ptr, d_weight_ptr, cols, col_ok, n_rows)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    if seed_ptr is not None:
        dropping = (load_counters(seed_ptr, step_ptr), indices_ptr, draw_stream, threshold, keep_scale)
    for start in tl.range(0, rows_per_program, BLOCK_M, num_stages=STAGES):
        rows = first + start + tl.arange(0, BLOCK_M)
        ok = (rows < n_rows)[:, None] & col_ok[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + cols[None, :]
        x = tl.load(x_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
        grad = _load_gradient(grad_ptr, rows, offsets, cols, channels, ok, pixels, AVERAGED)
        if seed_ptr is not None:
            grad = drop_tile(grad, dropping, rows, rows < n_rows, cols, channels, pixels)
        dz = through_activation(grad, normalize(x, affine), negative_slope, dtype, ACT)
        dx = through_batch_norm(dz, x, affine, mean_dz, mean_dz_x, TRAINING)
        tl.store(dx_ptr + offsets, dx.to(dtype), mask=ok)


def gradient_sums(
    grad: Tensor, x: Tensor, norm: Norm, saved: Tensor | None, dz: Tensor | None, dropping: Dropping = NO_DROPOUT
) -> Sums:
    """``Σ dz`` and ``Σ dz·x̂``, both [C] fp32; writes dz where there is a tensor for it.

    x is channels_last, and so is grad if it has its shape.
    """
    plan = schedule("batch_norm_act", x)
    partials, sums, counters, first_counter = room_for_sums(x, plan)
    kind = "none" if saved is None else "output" if norm.act == "relu" else "residual"
    with torch.cuda.device_of(x):
        batch_norm_act_bwd_sums_kernel[(plan.programs,)](
            grad,
            x,
            *norm.contiguous(),
            saved if saved is None else as_matrix(saved),
            dz,
            partials,
            *sums,
            counters,
            *plan.sizes,
            plan.n_chunks,
            plan.n_rows // x.shape[0],
            first_counter,
            norm.negative_slope,
            **dropping_arguments(dropping),
            HAS_AFFINE=norm.weight is not None,
            SAVED=kind,
            STORE=dz is not None,
            AVERAGED=grad.dim() == 2,
            ACT=norm.act,
            **plan.pipelined(x),
        )
    return sums


def room_for_sums(x: Tensor, plan: Schedule) -> tuple[Tensor, Sums, Tensor, int]:
    """The partial sums, the sums, and the counters by which they are finished, with the first of these."""
    partials = x.new_empty(2, plan.n_chunks, x.shape[1], dtype=torch.float32)
    sums = partials.new_empty(x.shape[1]), partials.new_empty(x.shape[1])
    return partials, sums, *take_counters(plan.column_blocks, x.device)


def input_gradient(grad: Tensor, x: Tensor, norm: Norm, sums: Sums, dropping: Dropping = NO_DROPOUT) -> Tensor:
    """dx, channels_last."""
    plan = schedule("batch_norm_act", x)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    with torch.cuda.device_of(x):
        batch_norm_act_bwd_kernel[(plan.programs,)](
            grad,
            x,
            *norm.contiguous(),
            *sums,
            dx,
            *plan.sizes,
            plan.n_rows // x.shape[0],
            norm.negative_slope,
            **dropping_arguments(dropping),
            HAS_AFFINE=norm.weight is not None,
            TRAINING=norm.training,
            AVERAGED=grad.dim() == 2,
            ACT=norm.act,
            **plan.pipelined(x),
        )
    return dx
