"""Triton kernel of the forward of batch norm with activation and residual, and the function that launches it."""

from dataclasses import replace

import torch
import triton.language as tl
from torch import Tensor

from ...dropout.draws import NO_DROPOUT, Dropping
from ...dropout.triton_draws import drop_tile, dropping_arguments, load_counters
from ..activations_triton import activate
from ..norm import Norm
from ..triton_backward import gradient_sums, input_gradient
from ..triton_forked import forked_input_gradient
from ..triton_statistics import (
    as_matrix,
    batch_norm_statistics,
    load_affine,
    normalize,
    per_size,
    running_statistics,
    schedule,
    share,
)
from ..triton_sums import as_parameters

__all__ = ["batch_norm_act", "batch_norm_act_backward", "batch_norm_statistics", "running_statistics"]


@per_size
def batch_norm_act_fwd_kernel(
    x_ptr,  # [M, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    residual_ptr,  # [M, C] if HAS_RESIDUAL
    y_ptr,  # [M, C]
    n_rows,
    n_groups,  # C / ALIGN
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
    HAS_RESIDUAL: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``y = drop(act((x − mean) · rstd · weight + bias [+ residual]))``, in fp32 and rounded once."""
    channels, cols, col_ok, _, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    if seed_ptr is not None:
        dropping = (load_counters(seed_ptr, step_ptr), indices_ptr, draw_stream, threshold, keep_scale)
    for start in tl.range(0, rows_per_program, BLOCK_M, num_stages=STAGES):
        rows = first + start + tl.arange(0, BLOCK_M)
        ok = (rows < n_rows)[:, None] & col_ok[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + cols[None, :]
        z = normalize(tl.load(x_ptr + offsets, mask=ok, other=0.0).to(tl.float32), affine)
        if HAS_RESIDUAL:
            z += tl.load(residual_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
        y = activate(z, negative_slope, ACT)
        if seed_ptr is not None:
            y = drop_tile(y, dropping, rows, rows < n_rows, cols, channels, pixels)
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=ok)


def batch_norm_act(x: Tensor, norm: Norm, residual: Tensor | None = None, dropping: Dropping = NO_DROPOUT) -> Tensor:
    """``drop(act(z))``, channels_last, with ``z = (x − mean) · rstd · weight + bias [+ residual]``."""
    x = as_matrix(x)
    plan = schedule("batch_norm_act", x)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    with torch.cuda.device_of(x):
        batch_norm_act_fwd_kernel[(plan.programs,)](
            x,
            *norm.contiguous(),
            residual if residual is None else as_matrix(residual),
            y,
            *plan.sizes,
            plan.n_rows // x.shape[0],
            norm.negative_slope,
            **dropping_arguments(dropping),
            HAS_AFFINE=norm.weight is not None,
            HAS_RESIDUAL=residual is not None,
            ACT=norm.act,
            **plan.pipelined(x),
        )
    return y


def batch_norm_act_backward(
    grad: Tensor,
    x: Tensor,
    norm: Norm,
    saved: Tensor | None = None,
    has_residual: bool = False,
    dropping: Dropping = NO_DROPOUT,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and, where it is not ``grad`` itself, the residual; empty where there is none.

    ``grad`` is [N, C, H, W], or [N, C] for an output that was averaged over the image. ``other`` is added to x's.
    """
    averaged, drops = grad.dim() == 2, dropping.seed is not None
    x, grad = as_matrix(x), grad.contiguous() if averaged else as_matrix(grad)
    store = drops or norm.act != "identity" if has_residual else drops and other is not None
    dz = torch.empty_like(x, memory_format=torch.channels_last) if store else None
    sums = gradient_sums(grad, x, norm, saved, dz, dropping)
    rest = norm
    if dz is not None:  # the second pass need not work it out again
        grad, rest, dropping = dz, replace(norm, act="identity"), NO_DROPOUT
    if other is None:
        dx = input_gradient(grad, x, rest, sums, dropping)
    else:
        dx = forked_input_gradient(grad, other, x, rest, sums)
    grad_residual = x.new_empty(0) if dz is None or not has_residual else dz
    return dx, *as_parameters(*sums, norm.weight), grad_residual
