"""Triton kernel of the input gradient where x has a second reader, whose gradient is added in the same pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .norm import Norm
from .triton_backward import Sums, through_activation, through_batch_norm
from .triton_statistics import as_matrix, load_affine, normalize, schedule, share
from .triton_sums import load_sums


@triton.jit(do_not_specialize=["n_rows", "n_groups", "rows_per_program", "other_groups"])
def fork_batch_norm_act_bwd_kernel(
    grad_ptr,  # [M, C]
    other_ptr,  # [M, C] if HAS_OTHER, rows other_groups · ALIGN apart
    x_ptr,  # [M, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    dx_ptr,  # [M, C]
    n_rows,
    n_groups,  # C / ALIGN
    other_groups,
    rows_per_program,
    negative_slope,
    HAS_AFFINE: tl.constexpr,
    HAS_OTHER: tl.constexpr,
    TRAINING: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``dx = other + rstd · weight · (dz − (Σ dz + x̂ · Σ dz·x̂) / M)`` with ``dz = grad · act′(z)``, rounded once."""
    channels, cols, col_ok, _, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    mean_dz, mean_dz_x = load_sums(d_bias_ptr, d_weight_ptr, cols, col_ok, n_rows)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    for start in tl.range(0, rows_per_program, BLOCK_M, num_stages=STAGES):
        rows = first + start + tl.arange(0, BLOCK_M)
        ok = (rows < n_rows)[:, None] & col_ok[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + cols[None, :]
        x = tl.load(x_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
        dz = through_activation(grad, normalize(x, affine), negative_slope, dtype, ACT)
        dx = through_batch_norm(dz, x, affine, mean_dz, mean_dz_x, TRAINING)
        if HAS_OTHER:
            other_offsets = rows.to(tl.int64)[:, None] * (other_groups * ALIGN) + cols[None, :]
            dx += tl.load(other_ptr + other_offsets, mask=ok, other=0.0).to(tl.float32)
        tl.store(dx_ptr + offsets, dx.to(dtype), mask=ok)


def forked_input_gradient(grad: Tensor, other: Tensor, x: Tensor, norm: Norm, sums: Sums) -> Tensor:
    """dx, channels_last, from the sums that ``gradient_sums`` returns; grad and x are channels_last."""
    plan = schedule("batch_norm_act", x)
    other, row_length = _as_rows(other, plan.align)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    with torch.cuda.device_of(x):
        fork_batch_norm_act_bwd_kernel[(plan.programs,)](
            grad,
            other,
            x,
            *norm.contiguous(),
            *sums,
            dx,
            plan.n_rows,
            plan.n_groups,
            row_length // plan.align,
            plan.rows_per_program,
            norm.negative_slope,
            HAS_AFFINE=norm.weight is not None,
            HAS_OTHER=True,
            TRAINING=norm.training,
            ACT=norm.act,
            **plan.pipelined(x),
        )
    return dx


def _as_rows(x: Tensor, align: int) -> tuple[Tensor, int]:
    """``x`` [N, C, H, W] as rows [M, C] with a distance between them that is a multiple of ``align``; the distance.

    The first channels of a wider channels_last tensor are such rows: what a shortcut that adds channels hands back.
    Anything else is copied.
    """
    _, channels, height, width = x.shape
    row = x.stride(3)
    wanted = (height * width * row, 1, width * row, row)
    fits = all(size == 1 or found == stride for size, found, stride in zip(x.shape, x.stride(), wanted, strict=True))
    if fits and width > 1 and row % align == 0:
        return x, row
    return as_matrix(x), channels
