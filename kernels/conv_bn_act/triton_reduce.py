"""The small kernels around the convolutions: the statistics of all tiles, and what is per channel."""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton.language as tl

from .triton_common import per_size


@per_size
def conv_moments_kernel(
    partials_ptr,  # [2, tiles, C] fp32: mean and Σ (y − mean)² of each tile
    moments_ptr,  # [2, C] fp32: mean and biased variance
    stats_ptr,  # [3, C] fp32 if HAS_STATS: mean, its part below rounding, rstd
    n_tiles,
    channels,
    pixels_per_tile,
    pixels,
    eps,
    HAS_STATS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``mean = Σ n_t mean_t / M``, ``var = Σ (square_t + n_t (mean_t − mean)²) / M``, ``rstd = 1/√(var + ε)``; n_t is
    the number of pixels of tile t, M that of all. Means are added as differences from the first to keep their digits.
    """
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = cs < channels
    origin = tl.load(partials_ptr + cs, mask=c_ok, other=0.0)
    total = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for start in range(0, n_tiles, BLOCK_T):
        ts = start + tl.arange(0, BLOCK_T)
        ok = (ts < n_tiles)[:, None] & c_ok[None, :]
        means = tl.load(partials_ptr + ts[:, None] * channels + cs[None, :], mask=ok, other=0.0)
        n = tl.minimum(pixels - ts * pixels_per_tile, pixels_per_tile).to(tl.float32)[:, None]
        total += tl.where(ok, n * (means - origin[None, :]), 0.0)
    offset = tl.sum(total, axis=0) / pixels
    total = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for start in range(0, n_tiles, BLOCK_T):
        ts = start + tl.arange(0, BLOCK_T)
        ok = (ts < n_tiles)[:, None] & c_ok[None, :]
        offsets = ts[:, None] * channels + cs[None, :]
        means = tl.load(partials_ptr + offsets, mask=ok, other=0.0)
        squares = tl.load(partials_ptr + n_tiles * channels + offsets, mask=ok, other=0.0)
        n = tl.minimum(pixels - ts * pixels_per_tile, pixels_per_tile).to(tl.float32)[:, None]
        deviation = means - origin[None, :] - offset[None, :]
        total += tl.where(ok, squares + n * deviation * deviation, 0.0)
    var = tl.sum(total, axis=0) / pixels
    mean = origin + offset
    tl.store(moments_ptr + cs, mean, mask=c_ok)
    tl.store(moments_ptr + channels + cs, var, mask=c_ok)
    if HAS_STATS:
        part = mean - origin
        low = (origin - (mean - part)) + (offset - part)
        tl.store(stats_ptr + cs, mean, mask=c_ok)
        tl.store(stats_ptr + channels + cs, low, mask=c_ok)
        tl.store(stats_ptr + 2 * channels + cs, tl.div_rn(1.0, tl.sqrt_rn(var + eps)), mask=c_ok)


@per_size
def conv_affine_kernel(
    stats_ptr,  # [3, C] fp32: mean, its part below rounding, rstd
    weight_ptr,  # [C] if HAS_WEIGHT
    bias_ptr,  # [C] if HAS_WEIGHT
    affine_ptr,  # [5, C] fp32
    channels,
    HAS_WEIGHT: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``affine = (mean, scale, shift, rstd, offset)``: ``BN(x) = (x − mean) · scale + shift`` and
    ``x̂ = (x − mean) · rstd + offset``.
    """
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = cs < channels
    low = tl.load(stats_ptr + channels + cs, mask=ok, other=0.0)
    rstd = tl.load(stats_ptr + 2 * channels + cs, mask=ok, other=0.0)
    offset = -low * rstd
    scale = rstd
    shift = offset
    if HAS_WEIGHT:
        scale = rstd * tl.load(weight_ptr + cs, mask=ok, other=0.0).to(tl.float32)
        shift = tl.fma(-low, scale, tl.load(bias_ptr + cs, mask=ok, other=0.0).to(tl.float32))
    tl.store(affine_ptr + cs, tl.load(stats_ptr + cs, mask=ok, other=0.0), mask=ok)
    tl.store(affine_ptr + channels + cs, scale, mask=ok)
    tl.store(affine_ptr + 2 * channels + cs, shift, mask=ok)
    tl.store(affine_ptr + 3 * channels + cs, rstd, mask=ok)
    tl.store(affine_ptr + 4 * channels + cs, offset, mask=ok)


@per_size
def conv_running_kernel(
    moments_ptr,  # [2, C] fp32: mean and biased variance
    stats_ptr,  # [3, C] fp32
    running_mean_ptr,  # [C] if HAS_RUNNING
    running_var_ptr,  # [C] if HAS_RUNNING
    count_ptr,  # [] int64 if CUMULATIVE
    channels,
    unbias,
    momentum,
    eps,
    HAS_RUNNING: tl.constexpr,
    CUMULATIVE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``stats = (mean, 0, 1/√(var + ε))`` and ``running = (1 − m) · running + m · (mean, unbias · var)`` with
    m = momentum, or 1/count if CUMULATIVE.
    """
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = cs < channels
    mean = tl.load(moments_ptr + cs, mask=ok, other=0.0)
    var = tl.load(moments_ptr + channels + cs, mask=ok, other=0.0)
    tl.store(stats_ptr + cs, mean, mask=ok)
    tl.store(stats_ptr + channels + cs, tl.zeros([BLOCK_C], tl.float32), mask=ok)
    tl.store(stats_ptr + 2 * channels + cs, tl.div_rn(1.0, tl.sqrt_rn(var + eps)), mask=ok)
    if CUMULATIVE:
        momentum = 1.0 / tl.load(count_ptr).to(tl.float32)
    if HAS_RUNNING:
        old_mean = tl.load(running_mean_ptr + cs, mask=ok, other=0.0).to(tl.float32)
        old_var = tl.load(running_var_ptr + cs, mask=ok, other=0.0).to(tl.float32)
        new_mean = (1.0 - momentum) * old_mean + momentum * mean
        new_var = (1.0 - momentum) * old_var + momentum * (var * unbias)
        tl.store(running_mean_ptr + cs, new_mean.to(running_mean_ptr.dtype.element_ty), mask=ok)
        tl.store(running_var_ptr + cs, new_var.to(running_var_ptr.dtype.element_ty), mask=ok)
