"""Triton kernels of the op, which go over windows of 2×2 pixels, and the functions that launch them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...batch_norm.activations_triton import activate
from ...batch_norm.norm import Norm
from ...batch_norm.triton_backward import room_for_sums, through_activation
from ...batch_norm.triton_statistics import (
    as_matrix,
    column_block,
    load_affine,
    normalize,
    per_size,
    schedule,
    share,
    standardize,
)
from ...batch_norm.triton_sums import as_parameters, finish_sums, load_sums


@triton.jit
def _corner(windows, windows_high, windows_wide, height, width):
    """For each window its first pixel's row in x, its row in y, and whether its right and lower pixels exist."""
    image = windows // (windows_high * windows_wide)
    high = windows // windows_wide % windows_high
    wide = windows % windows_wide
    pixel = (image.to(tl.int64) * height + 2 * high) * width + 2 * wide
    pooled = (image.to(tl.int64) * (height // 2) + high) * (width // 2) + wide
    return pixel[:, None], pooled[:, None], (2 * wide + 1 < width)[:, None], (2 * high + 1 < height)[:, None]


@triton.jit
def _larger(best, which, value, k: tl.constexpr):
    """Maximum so far and its place, after looking at ``value`` in place k; of equals the first stays, NaN is taken."""
    take = (value > best) | (value != value)
    return tl.where(take, value, best), tl.where(take, k, which)


@triton.jit
def _maximum(x0, x1, x2, x3, affine, negative_slope, ACT: tl.constexpr):
    """The window's largest activated value, its x, and which of the four it is."""
    best = activate(normalize(x0, affine), negative_slope, ACT)
    which = tl.zeros(best.shape, tl.int32)
    best, which = _larger(best, which, activate(normalize(x1, affine), negative_slope, ACT), 1)
    best, which = _larger(best, which, activate(normalize(x2, affine), negative_slope, ACT), 2)
    best, which = _larger(best, which, activate(normalize(x3, affine), negative_slope, ACT), 3)
    x = tl.where(which == 0, x0, tl.where(which == 1, x1, tl.where(which == 2, x2, x3)))
    return best, x, which


@per_size
def max_pool_bn_act_fwd_kernel(
    x_ptr,  # [N · H · W, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    y_ptr,  # [n_rows, C]
    n_rows,  # windows
    n_groups,  # C / ALIGN
    rows_per_program,
    height,
    width,
    negative_slope,
    HAS_AFFINE: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``y_ij = max(a_2i,2j, a_2i,2j+1, a_2i+1,2j, a_2i+1,2j+1)``, ``a = act((x − mean) · rstd · weight + bias)``."""
    channels, cols, col_ok, _, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    for start in tl.range(0, rows_per_program, BLOCK_M):
        windows = first + start + tl.arange(0, BLOCK_M)
        ok = (windows < n_rows)[:, None] & col_ok[None, :]
        pixel, pooled, _right, _below = _corner(windows, height // 2, width // 2, height, width)
        pointers = x_ptr + pixel * channels + cols[None, :]
        x0 = tl.load(pointers, mask=ok, other=0.0).to(tl.float32)
        x1 = tl.load(pointers + channels, mask=ok, other=0.0).to(tl.float32)
        x2 = tl.load(pointers + width * channels, mask=ok, other=0.0).to(tl.float32)
        x3 = tl.load(pointers + (width + 1) * channels, mask=ok, other=0.0).to(tl.float32)
        best, _x, _which = _maximum(x0, x1, x2, x3, affine, negative_slope, ACT)
        tl.store(y_ptr + pooled * channels + cols[None, :], best.to(y_ptr.dtype.element_ty), mask=ok)


@per_size
def max_pool_bn_act_bwd_sums_kernel(
    grad_ptr,  # [n_rows, C]
    x_ptr,  # [N · H · W, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    partials_ptr,  # [2, n_chunks, C] fp32
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    counters_ptr,
    n_rows,  # windows
    n_groups,
    rows_per_program,
    n_chunks,
    height,
    width,
    first_counter,
    negative_slope,
    HAS_AFFINE: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``d_bias = Σ dz`` and ``d_weight = Σ dz · x̂``; ``dz = grad · act′(z)`` at a window's maximum, 0 elsewhere."""
    channels, cols, col_ok, chunk, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C, LAST_FIRST=True)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    sum_dz = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    sum_dz_x = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for start in tl.range(0, rows_per_program, BLOCK_M):
        windows = first + start + tl.arange(0, BLOCK_M)
        ok = (windows < n_rows)[:, None] & col_ok[None, :]
        pixel, pooled, _right, _below = _corner(windows, height // 2, width // 2, height, width)
        pointers = x_ptr + pixel * channels + cols[None, :]
        x0 = tl.load(pointers, mask=ok, other=0.0).to(tl.float32)
        x1 = tl.load(pointers + channels, mask=ok, other=0.0).to(tl.float32)
        x2 = tl.load(pointers + width * channels, mask=ok, other=0.0).to(tl.float32)
        x3 = tl.load(pointers + (width + 1) * channels, mask=ok, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + pooled * channels + cols[None, :], mask=ok, other=0.0).to(tl.float32)
        _best, x, _which = _maximum(x0, x1, x2, x3, affine, negative_slope, ACT)
        dz = through_activation(grad, normalize(x, affine), negative_slope, x_ptr.dtype.element_ty, ACT)
        sum_dz += dz
        sum_dz_x += dz * standardize(x, affine)
    cols, col_ok, counter_ptr = column_block(counters_ptr, first_counter, channels, BLOCK_C)
    out = chunk * channels + cols
    tl.store(partials_ptr + out, tl.sum(sum_dz, axis=0), mask=col_ok)
    tl.store(partials_ptr + n_chunks * channels + out, tl.sum(sum_dz_x, axis=0), mask=col_ok)
    finish_sums(
        partials_ptr, d_bias_ptr, d_weight_ptr, counter_ptr, n_chunks, n_chunks, channels, cols, col_ok, BLOCK_C
    )


@triton.jit
def _store_gradient(pointers, x, dz, affine, mean_dz, mean_dz_x, ok, TRAINING: tl.constexpr):
    if TRAINING:
        dz = dz - (mean_dz + standardize(x, affine) * mean_dz_x)
    tl.store(pointers, (dz * affine[3]).to(pointers.dtype.element_ty), mask=ok)


@per_size
def max_pool_bn_act_bwd_kernel(
    grad_ptr,  # [N · ⌊H/2⌋ · ⌊W/2⌋, C]
    x_ptr,  # [N · H · W, C]
    stats_ptr,  # [3, C] fp32
    weight_ptr,  # [C] if HAS_AFFINE
    bias_ptr,  # [C] if HAS_AFFINE
    d_bias_ptr,  # [C] fp32
    d_weight_ptr,  # [C] fp32
    dx_ptr,  # [N · H · W, C]
    n_rows,  # windows, those cut off by the image's edge included
    n_groups,
    rows_per_program,
    height,
    width,
    pixels,  # N · H · W
    negative_slope,
    HAS_AFFINE: tl.constexpr,
    TRAINING: tl.constexpr,
    ACT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``dx = rstd · weight · (dz − (Σ dz + x̂ · Σ dz·x̂) / M)``, in eval without the sums; ``dz = grad · act′(z)`` at
    each window's maximum, 0 elsewhere.
    """
    channels, cols, col_ok, _, first = share(n_groups, rows_per_program, ALIGN, BLOCK_C)
    affine = load_affine(stats_ptr, weight_ptr, bias_ptr, cols, col_ok, channels, HAS_AFFINE)
    mean_dz, mean_dz_x = load_sums(d_bias_ptr, d_weight_ptr, cols, col_ok, pixels)
    for start in tl.range(0, rows_per_program, BLOCK_M):
        windows = first + start + tl.arange(0, BLOCK_M)
        ok = (windows < n_rows)[:, None] & col_ok[None, :]
        pixel, pooled, right, below = _corner(windows, (height + 1) // 2, (width + 1) // 2, height, width)
        offsets = pixel * channels + cols[None, :]
        x0 = tl.load(x_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
        x1 = tl.load(x_ptr + offsets + channels, mask=ok & right, other=0.0).to(tl.float32)
        x2 = tl.load(x_ptr + offsets + width * channels, mask=ok & below, other=0.0).to(tl.float32)
        x3 = tl.load(x_ptr + offsets + (width + 1) * channels, mask=ok & right & below, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + pooled * channels + cols[None, :], mask=ok & right & below, other=0.0).to(tl.float32)
        _best, x, which = _maximum(x0, x1, x2, x3, affine, negative_slope, ACT)
        dz = through_activation(grad, normalize(x, affine), negative_slope, x_ptr.dtype.element_ty, ACT)
        out = dx_ptr + offsets
        _store_gradient(out, x0, tl.where(which == 0, dz, 0.0), affine, mean_dz, mean_dz_x, ok, TRAINING)
        out += channels
        _store_gradient(out, x1, tl.where(which == 1, dz, 0.0), affine, mean_dz, mean_dz_x, ok & right, TRAINING)
        out += (width - 1) * channels
        _store_gradient(out, x2, tl.where(which == 2, dz, 0.0), affine, mean_dz, mean_dz_x, ok & below, TRAINING)
        out += channels
        ok &= right & below
        _store_gradient(out, x3, tl.where(which == 3, dz, 0.0), affine, mean_dz, mean_dz_x, ok, TRAINING)


def max_pool_bn_act(x: Tensor, norm: Norm) -> Tensor:
    """``max_pool2d(act(z), 2)``, channels_last, with ``z = (x − mean) · rstd · weight + bias``."""
    x = as_matrix(x)
    images, _, height, width = x.shape
    plan = schedule("max_pool_bn_act", x, images * (height // 2) * (width // 2))
    y = torch.empty_like(x[:, :, : height // 2, : width // 2], memory_format=torch.channels_last)
    with torch.cuda.device_of(x):
        max_pool_bn_act_fwd_kernel[(plan.programs,)](
            x,
            *norm.contiguous(),
            y,
            *plan.sizes,
            height,
            width,
            norm.negative_slope,
            HAS_AFFINE=norm.weight is not None,
            ACT=norm.act,
            **plan.blocks,
        )
    return y


def max_pool_bn_act_backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; the last two are empty where there is no weight."""
    grad, x = as_matrix(grad), as_matrix(x)
    images, _, height, width = x.shape
    affine, settings = norm.contiguous(), {"HAS_AFFINE": norm.weight is not None, "ACT": norm.act}
    plan = schedule("max_pool_bn_act", x, images * (height // 2) * (width // 2))
    partials, sums, counters, first_counter = room_for_sums(x, plan)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    with torch.cuda.device_of(x):
        max_pool_bn_act_bwd_sums_kernel[(plan.programs,)](
            grad,
            x,
            *affine,
            partials,
            *sums,
            counters,
            *plan.sizes,
            plan.n_chunks,
            height,
            width,
            first_counter,
            norm.negative_slope,
            **settings,
            **plan.blocks,
        )
        plan = schedule("max_pool_bn_act", x, images * ((height + 1) // 2) * ((width + 1) // 2))
        max_pool_bn_act_bwd_kernel[(plan.programs,)](
            grad,
            x,
            *affine,
            *sums,
            dx,
            *plan.sizes,
            height,
            width,
            images * height * width,
            norm.negative_slope,
            TRAINING=norm.training,
            **settings,
            **plan.blocks,
        )
    return dx, *as_parameters(*sums, norm.weight)
