"""The activations and their derivatives inside Triton kernels, in fp32."""

import triton
import triton.language as tl

from . import activations

_SELU_ALPHA = tl.constexpr(activations.SELU_ALPHA)
_SELU_SCALE = tl.constexpr(activations.SELU_SCALE)
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_DENSITY_0 = tl.constexpr(0.3989422804014327)  # 1/√(2π)


@triton.jit
def _expm1(z):
    """``exp(z) − 1`` for z ≤ 0, exact to rounding near 0 too, where the difference would cancel."""
    series = 1.0 + z * (1.0 / 8)
    series = 1.0 + z * (1.0 / 7) * series
    series = 1.0 + z * (1.0 / 6) * series
    series = 1.0 + z * (1.0 / 5) * series
    series = 1.0 + z * (1.0 / 4) * series
    series = 1.0 + z * (1.0 / 3) * series
    series = 1.0 + z * (1.0 / 2) * series
    return tl.where(z > -0.5, z * series, tl.exp(z) - 1.0)


@triton.jit
def _sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def _logistic_density(z):
    """``sigmoid′(z)`` without the cancellation of ``s (1 − s)``."""
    e = tl.exp(-tl.abs(z))
    root = 1.0 / (1.0 + e)
    return e * root * root


@triton.jit
def tanh(z):
    t = _expm1(-2.0 * tl.abs(z))
    magnitude = -t / (t + 2.0)
    return tl.where(z < 0, -magnitude, magnitude)


@triton.jit
def activate(z, negative_slope, ACT: tl.constexpr):
    """``act(z)``; NaN stays NaN."""
    tl.static_assert(z.dtype == tl.float32)
    if ACT == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACT == "leaky_relu":
        z = tl.where(z <= 0, z * negative_slope, z)
    elif ACT == "silu":
        z = z * _sigmoid(z)
    elif ACT == "gelu":
        z = 0.5 * z * (1.0 + tl.erf(z * _SQRT_HALF))
    elif ACT == "elu":
        z = tl.where(z <= 0, _expm1(tl.minimum(z, 0.0)), z)
    elif ACT == "selu":
        z = _SELU_SCALE * tl.where(z <= 0, _SELU_ALPHA * _expm1(tl.minimum(z, 0.0)), z)
    elif ACT == "sigmoid":
        z = _sigmoid(z)
    elif ACT == "tanh":
        z = tanh(z)
    elif ACT == "softsign":
        z = z / (1.0 + tl.abs(z))
    else:
        tl.static_assert(ACT == "identity")
    return z


@triton.jit
def derivative(z, right, negative_slope, ACT: tl.constexpr):
    """``act′(z)``; ``right`` says which z are on the positive side of a piecewise activation."""
    tl.static_assert(z.dtype == tl.float32)
    if ACT == "identity":
        slope = tl.full(z.shape, 1.0, tl.float32)
    elif ACT == "relu":
        slope = tl.where(right, 1.0, 0.0)
    elif ACT == "leaky_relu":
        slope = tl.where(right, 1.0, negative_slope)
    elif ACT == "elu":
        slope = tl.where(right, 1.0, tl.exp(tl.minimum(z, 0.0)))
    elif ACT == "selu":
        slope = _SELU_SCALE * tl.where(right, 1.0, _SELU_ALPHA * tl.exp(tl.minimum(z, 0.0)))
    elif ACT == "tanh":
        slope = 4.0 * _logistic_density(2.0 * z)
    elif ACT == "softsign":
        root = 1.0 / (1.0 + tl.abs(z))
        slope = root * root
    elif ACT == "gelu":
        slope = 0.5 * (1.0 + tl.erf(z * _SQRT_HALF)) + z * _DENSITY_0 * tl.exp(-0.5 * z * z)
    elif ACT == "sigmoid":
        slope = _logistic_density(z)
    else:
        tl.static_assert(ACT == "silu")
        s = _sigmoid(z)
        slope = s * (1.0 + z * (1.0 - s))
    return slope
