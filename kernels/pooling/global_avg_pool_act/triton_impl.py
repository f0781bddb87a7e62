"""Triton kernel of the forward, and the functions that launch it and the backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...batch_norm.activations_triton import activate
from ...batch_norm.batch_norm_act.triton_impl import batch_norm_act_backward
from ...batch_norm.norm import Norm
from ...batch_norm.triton_statistics import as_matrix, load_affine, normalize, per_size, share
from ...tuning.tables import tile


@per_size
def global_avg_pool_act_fwd_kernel(
    x_ptr,  # [N · pixels, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    y_ptr,  # [N, C], of x's dtype
    n_groups,  # C / ALIGN
    pixels,
    negative_slope,
    HAS_AFFINE: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``y_nc = Σ_hw act((x − mean) · rstd · weight + bias)_nchw / pixels``; a program takes an image by BLOCK_C."""
    channels, cols, col_ok, image, _ = share(n_groups, 1, ALIGN, BLOCK_C)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    first = image.to(tl.int64) * pixels
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for start in tl.range(0, pixels, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        ok = (rows < pixels)[:, None] & col_ok[None, :]
        x = tl.load(x_ptr + (first + rows)[:, None] * channels + cols[None, :], mask=ok, other=0.0).to(tl.float32)
        total += tl.where(ok, activate(normalize(x, affine), negative_slope, ACT), 0.0)
    y = tl.sum(total, axis=0) / pixels
    tl.store(y_ptr + image.to(tl.int64) * channels + cols, y.to(y_ptr.dtype.element_ty), mask=col_ok)


def global_avg_pool_act(x: Tensor, norm: Norm) -> Tensor:
    """``mean_hw act(z)``, [N, C], with ``z = (x − mean) · rstd · weight + bias``."""
    x = as_matrix(x)
    images, channels, height, width = x.shape
    tiles = tile("global_avg_pool_act", channels, x.device)
    align = 8 if channels % 8 == 0 else 1
    y = x.new_empty(images, channels)
    with torch.cuda.device_of(x):
        global_avg_pool_act_fwd_kernel[(images * triton.cdiv(channels, tiles["block_c"]),)](
            x,
            *norm.contiguous(),
            y,
            channels // align,
            height * width,
            norm.negative_slope,
            HAS_AFFINE=norm.weight is not None,
            ACT=norm.act,
            ALIGN=align,
            BLOCK_M=tiles["block_m"],
            BLOCK_C=tiles["block_c"],
            num_warps=tiles["num_warps"],
        )
    return y


def global_avg_pool_act_backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias for ``grad`` [N, C]; the last two are empty where there is no weight."""
    return batch_norm_act_backward(grad, x, norm)[:3]
