"""The convolution ops with Triton kernels: which kernels make up which op."""

from dataclasses import replace

from torch import Tensor

from ..batch_norm.batch_norm_act.triton_impl import batch_norm_act, batch_norm_act_backward
from ..batch_norm.norm import Norm
from ..batch_norm.state import BatchNormState
from ..batch_norm.triton_backward import input_gradient
from ..batch_norm.triton_forked import forked_input_gradient
from ..batch_norm.triton_sums import as_parameters
from .arguments import Convolution, Needed
from .tiles import Geometry, geometry
from .triton_launch import channels_last, conv_dgrad, conv_fwd, conv_wgrad


def conv2d(
    x: Tensor, weight: Tensor, next_norm: BatchNormState, wants_statistics: bool, conv: Convolution
) -> tuple[Tensor, Tensor]:
    """Return y and, if wanted, the statistics [3, K] that ``next_norm`` makes of it, else empty ones."""
    g = _geometry("conv2d", x, weight, conv)
    return conv_fwd(x, weight, g, next_norm=next_norm if wants_statistics else None)


def conv2d_backward(x: Tensor, weight: Tensor, dy: Tensor, conv: Convolution, needed: Needed) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight; empty where not needed."""
    return _gradients(x, weight, dy, _geometry("conv2d", x, weight, conv), needed)


def bn_act_conv2d(
    x: Tensor,
    conv_weight: Tensor,
    norm: Norm,
    next_norm: BatchNormState,
    wants_statistics: bool,
    conv: Convolution,
) -> tuple[Tensor, Tensor]:
    """``conv2d`` of ``act(BN(x))``, which is nowhere in memory."""
    g = _geometry("bn_act_conv2d", x, conv_weight, conv)
    return conv_fwd(x, conv_weight, g, prologue=norm, next_norm=next_norm if wants_statistics else None)


def bn_act_conv2d_backward(
    x: Tensor, conv_weight: Tensor, dy: Tensor, norm: Norm, other: Tensor | None, conv: Convolution, needed: Needed
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (plus ``other``), the convolution's weight, BN's weight and bias; empty where not needed or not
    there.
    """
    g = _geometry("bn_act_conv2d", x, conv_weight, conv)
    # ops must not return one tensor twice
    dx, d_weight, d_bias = x.new_empty(0), norm.statistics.new_empty(0), norm.statistics.new_empty(0)
    if needed.dx:
        alone = not norm.training and other is None
        dx, sum_da, sum_da_x = conv_dgrad(dy, conv_weight, g, x=x, norm=norm, frozen=alone)
        assert sum_da is not None
        assert sum_da_x is not None
        sums = (sum_da, sum_da_x)
        rest = replace(norm, act="identity", negative_slope=0.0)
        if other is not None:
            dx = forked_input_gradient(dx, other, channels_last(x), rest, sums)
        elif norm.training:
            dx = input_gradient(dx, channels_last(x), rest, sums)
        d_weight, d_bias = as_parameters(*sums, norm.weight)
    dw = conv_wgrad(x, dy, g, norm) if needed.dw else x.new_empty(0)
    return dx, dw, d_weight, d_bias


def conv2d_bn_act(
    x: Tensor, conv_weight: Tensor, norm: Norm, residual: Tensor | None, own: BatchNormState, conv: Convolution
) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, y and, in training, y's statistics [3, K], with which ``own`` is updated (in eval empty)."""
    g = _geometry("conv2d_bn_act", x, conv_weight, conv)
    y, statistics = conv_fwd(x, conv_weight, g, next_norm=own if norm.training else None)
    if norm.training:
        norm = replace(norm, statistics=statistics)
    return batch_norm_act(y, norm, residual), y, statistics


def conv2d_bn_act_backward(
    x: Tensor,
    conv_weight: Tensor,
    dz: Tensor,
    y: Tensor,
    norm: Norm,
    saved: Tensor | None,
    conv: Convolution,
    needed: Needed,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the convolution's weight, BN's weight and bias, and of a residual with an activation after it,
    for which ``saved`` is what ``batch_norm_act_backward`` needs.

    Empty where not needed or not there.
    """
    dy, d_weight, d_bias, d_residual = batch_norm_act_backward(dz, y, norm, saved, saved is not None)
    g = _geometry("conv2d_bn_act", x, conv_weight, conv)
    return *_gradients(x, conv_weight, dy, g, needed), d_weight, d_bias, d_residual


def conv2d_bn_act_folded(
    x: Tensor, conv_weight: Tensor, norm: Norm, residual: Tensor | None, conv: Convolution
) -> Tensor:
    """``act(BN(conv(x)) [+ residual])`` in one kernel."""
    return conv_fwd(x, conv_weight, _geometry("conv2d_bn_act", x, conv_weight, conv), fold=norm, residual=residual)[0]


def _geometry(op: str, x: Tensor, weight: Tensor, conv: Convolution) -> Geometry:
    return geometry(x.shape, weight.shape, conv.stride, conv.padding, op)


def _gradients(x: Tensor, weight: Tensor, dy: Tensor, g: Geometry, needed: Needed) -> tuple[Tensor, Tensor]:
    """Those of a convolution."""
    dx = conv_dgrad(dy, weight, g)[0] if needed.dx else x.new_empty(0)
    dw = conv_wgrad(x, dy, g) if needed.dw else x.new_empty(0)
    return dx, dw
