"""The small kernels around the convolutions: reductions over tiles in a fixed order, and what is per channel or pixel."""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def conv_moments_kernel(
    mean_ptr,  # [rows, C] fp32
    square_ptr,  # [rows, C] fp32
    out_mean_ptr,  # [groups, C] fp32
    out_square_ptr,  # [groups, C] fp32
    rows,
    channels,
    pixels_per_row,
    pixels,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``mean = Σ_t n_t mean_t / Σ_t n_t`` and ``square = Σ_t (square_t + n_t (mean_t − mean)²)`` over a group of ROWS
    rows; the last group's square is stored over the number of pixels: the biased variance.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    group = tl.program_id(1)
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = cs < channels
    total = 0.0
    mean = tl.zeros([BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_C], tl.float32)
    for start in tl.static_range(0, ROWS, BLOCK_T):
        ts = group * ROWS + start + tl.arange(0, BLOCK_T)
        ok = (ts < rows)[:, None] & c_ok[None, :]
        offsets = ts[:, None] * channels + cs[None, :]
        counts = tl.minimum(tl.maximum(pixels - ts * pixels_per_row, 0), pixels_per_row).to(tl.float32)
        means = tl.load(mean_ptr + offsets, mask=ok, other=0.0)
        squares = tl.load(square_ptr + offsets, mask=ok, other=0.0)
        count = tl.sum(counts, axis=0)
        # differences from the mean so far: the sum of large means would lose their last digits
        shift = tl.where(total > 0, mean, tl.sum(tl.where((ts == group * ROWS)[:, None], means, 0.0), axis=0))
        offset = tl.sum((means - shift[None, :]) * counts[:, None], axis=0) / tl.maximum(count, 1.0)
        deviation = means - (shift + offset)[None, :]
        squares = tl.sum(squares + deviation * deviation * counts[:, None], axis=0)
        delta = shift + offset - mean
        both = tl.maximum(total + count, 1.0)
        square += squares + delta * delta * (total * (count / both))
        mean += delta * (count / both)
        total += count
    if LAST:
        square = square / pixels
    tl.store(out_mean_ptr + group * channels + cs, mean, mask=c_ok)
    tl.store(out_square_ptr + group * channels + cs, square, mask=c_ok)


@triton.jit
def conv_sums_kernel(
    sum_ptr,  # [rows, C] fp32
    dot_ptr,  # [rows, C] fp32
    rstd_ptr,  # [C] fp32 if LAST
    out_sum_ptr,  # [groups, C] fp32
    out_dot_ptr,  # [groups, C] fp32
    rows,
    channels,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``Σ_t sum_t`` and ``Σ_t dot_t``, the latter times rstd if LAST, over a group of ROWS rows."""
    group = tl.program_id(1)
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = cs < channels
    total = tl.zeros([BLOCK_C], tl.float32)
    dot = tl.zeros([BLOCK_C], tl.float32)
    for start in tl.static_range(0, ROWS, BLOCK_T):
        ts = group * ROWS + start + tl.arange(0, BLOCK_T)
        ok = (ts < rows)[:, None] & c_ok[None, :]
        offsets = ts[:, None] * channels + cs[None, :]
        total += tl.sum(tl.load(sum_ptr + offsets, mask=ok, other=0.0), axis=0)
        dot += tl.sum(tl.load(dot_ptr + offsets, mask=ok, other=0.0), axis=0)
    if LAST:
        dot = dot * tl.load(rstd_ptr + cs, mask=c_ok, other=0.0)
    tl.store(out_sum_ptr + group * channels + cs, total, mask=c_ok)
    tl.store(out_dot_ptr + group * channels + cs, dot, mask=c_ok)


@triton.jit
def conv_affine_kernel(
    statistics_ptr,  # [3, C] fp32: mean, its part below rounding, rstd
    weight_ptr,  # [C] if HAS_WEIGHT
    bias_ptr,  # [C] if HAS_WEIGHT
    affine_ptr,  # [3, C] fp32
    channels,
    HAS_WEIGHT: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``affine = (mean, rstd · weight, bias − low · rstd · weight)``, so that BN(x) = (x − affine₀) · affine₁ + affine₂."""
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = cs < channels
    mean = tl.load(statistics_ptr + cs, mask=ok, other=0.0)
    low = tl.load(statistics_ptr + channels + cs, mask=ok, other=0.0)
    scale = tl.load(statistics_ptr + 2 * channels + cs, mask=ok, other=0.0)
    shift = tl.zeros([BLOCK_C], tl.float32)
    if HAS_WEIGHT:
        scale = scale * tl.load(weight_ptr + cs, mask=ok, other=0.0).to(tl.float32)
        shift = tl.load(bias_ptr + cs, mask=ok, other=0.0).to(tl.float32)
    tl.store(affine_ptr + cs, mean, mask=ok)
    tl.store(affine_ptr + channels + cs, scale, mask=ok)
    tl.store(affine_ptr + 2 * channels + cs, shift - low * scale, mask=ok)


@triton.jit
def conv_running_kernel(
    running_mean_ptr,  # [C]
    running_var_ptr,  # [C]
    mean_ptr,  # [C] fp32
    var_ptr,  # [C] fp32, biased
    factor_ptr,  # [] fp32 if momentum is on the device
    factor,
    unbias,
    channels,
    FACTOR_ON_DEVICE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``running = (1 − factor) · running + factor · new``, the variance times ``unbias`` = n / (n − 1)."""
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = cs < channels
    if FACTOR_ON_DEVICE:
        factor = tl.load(factor_ptr)
    mean = tl.load(running_mean_ptr + cs, mask=ok, other=0.0).to(tl.float32)
    var = tl.load(running_var_ptr + cs, mask=ok, other=0.0).to(tl.float32)
    mean = (1.0 - factor) * mean + factor * tl.load(mean_ptr + cs, mask=ok, other=0.0)
    var = (1.0 - factor) * var + factor * (tl.load(var_ptr + cs, mask=ok, other=0.0) * unbias)
    tl.store(running_mean_ptr + cs, mean.to(running_mean_ptr.dtype.element_ty), mask=ok)
    tl.store(running_var_ptr + cs, var.to(running_var_ptr.dtype.element_ty), mask=ok)


@triton.jit
def conv_bn_bwd_kernel(
    da_ptr,  # [pixels, C]
    x_ptr,  # [pixels, C]
    affine_ptr,  # [3, C] fp32
    rstd_ptr,  # [C] fp32
    sums_ptr,  # [2, C] fp32: Σ da, Σ da · x̂
    dx_ptr,  # [pixels, C]; may be da
    pixels,
    channel_groups,  # C / 8
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``dx = rstd · weight · (da − (Σ da + x̂ Σ da·x̂) / pixels)`` with ``x̂ = (x − mean) · rstd``."""
    channels = channel_groups * 8
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cs = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = cs < channels
    ok = (rows < pixels)[:, None] & c_ok[None, :]
    offsets = rows[:, None] * channels + cs[None, :]
    mean = tl.load(affine_ptr + cs, mask=c_ok, other=0.0)[None, :]
    scale = tl.load(affine_ptr + channels + cs, mask=c_ok, other=0.0)[None, :]
    rstd = tl.load(rstd_ptr + cs, mask=c_ok, other=0.0)
    total = tl.load(sums_ptr + cs, mask=c_ok, other=0.0) / pixels
    dot = tl.load(sums_ptr + channels + cs, mask=c_ok, other=0.0) / pixels * rstd
    x = tl.load(x_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
    da = tl.load(da_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
    dx = (da - total[None, :] - (x - mean) * dot[None, :]) * scale
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=ok)
