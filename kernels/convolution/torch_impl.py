"""The convolution ops as torch's convolution and ``batch_norm_act``: on a CPU, and on a GPU where that is faster.

On a GPU the convolution is cuDNN's and batch norm with activation is op ``batch_norm_act`` with its own choice of
backend. So nothing is fused into a convolution: its input and its output are in memory, rounded, and statistics,
``act(BN(x))`` and their gradients are passes over them. An activated input is not kept for the backward but recomputed.
"""

from dataclasses import replace
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch_norm.batch_norm_act import torch_impl as batch_norm_torch
from ..batch_norm.norm import Norm
from ..batch_norm.state import BatchNormState
from ..library import runs_on
from .arguments import Convolution, Needed, empty_statistics


def conv2d(
    x: Tensor, weight: Tensor, next_norm: BatchNormState, wants_statistics: bool, conv: Convolution
) -> tuple[Tensor, Tensor]:
    """Return y and, if wanted, the statistics [3, K] that ``next_norm`` makes of it, for which y is read again."""
    y = _conv2d(x, weight, conv)
    if not wants_statistics:
        return y, empty_statistics(x, weight, False)
    return y, _batch_norm(y).batch_norm_statistics(y, next_norm)


def conv2d_backward(x: Tensor, weight: Tensor, dy: Tensor, conv: Convolution, needed: Needed) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight; empty where not needed."""
    geometry = ([conv.stride] * 2, [conv.padding] * 2, [1, 1], False, [0, 0], 1)
    wanted = [needed.dx, needed.dw, False]
    dx, dw, _ = torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, wanted)
    return _channels_last(dx) if needed.dx else x.new_empty(0), _channels_last(dw) if needed.dw else x.new_empty(0)


def bn_act_conv2d(
    x: Tensor,
    conv_weight: Tensor,
    norm: Norm,
    next_norm: BatchNormState,
    wants_statistics: bool,
    conv: Convolution,
) -> tuple[Tensor, Tensor]:
    """``conv2d`` of ``act(BN(x))``, which is written, read by the convolution and dropped."""
    return conv2d(_batch_norm(x).batch_norm_act(x, norm), conv_weight, next_norm, wants_statistics, conv)


def bn_act_conv2d_backward(
    x: Tensor, conv_weight: Tensor, dy: Tensor, norm: Norm, other: Tensor | None, conv: Convolution, needed: Needed
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (plus ``other``), the convolution's weight, BN's weight and bias; empty where not needed or not
    there.
    """
    # the activated input is recomputed; the gradient of z alone does not need its values
    z = _batch_norm(x).batch_norm_act(x, norm) if needed.dw else x
    dz, dw = conv2d_backward(z, conv_weight, dy, conv, needed)
    if not needed.dx:
        return dz, dw, norm.statistics.new_empty(0), norm.statistics.new_empty(0)
    dx, d_weight, d_bias, _ = _batch_norm(x).batch_norm_act_backward(dz, x, norm, other=other)
    return dx, dw, d_weight, d_bias


def conv2d_bn_act(
    x: Tensor, conv_weight: Tensor, norm: Norm, residual: Tensor | None, own: BatchNormState, conv: Convolution
) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, y and, in training, y's statistics [3, K], with which ``own`` is updated (in eval empty).

    In training two passes follow the convolution, for the statistics and for z; in eval one.
    """
    y, statistics = conv2d(x, conv_weight, own, norm.training, conv)
    if norm.training:
        norm = replace(norm, statistics=statistics)
    return _batch_norm(y).batch_norm_act(y, norm, residual), y, statistics


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
    dz = _channels_last(dz)  # the sums' order, and with it their rounding, does not depend on its layout
    dy, d_weight, d_bias, d_residual = _batch_norm(y).batch_norm_act_backward(dz, y, norm, saved, saved is not None)
    return *conv2d_backward(x, conv_weight, dy, conv, needed), d_weight, d_bias, d_residual


def conv2d_bn_act_folded(
    x: Tensor, conv_weight: Tensor, norm: Norm, residual: Tensor | None, conv: Convolution
) -> Tensor:
    """``act(BN(conv(x)) [+ residual])`` for given statistics: a convolution, whose output is rounded, and one pass that
    normalises, adds and activates. Only Triton's kernel folds BN into the convolution.
    """
    return _batch_norm(x).batch_norm_act(_conv2d(x, conv_weight, conv), norm, residual)


def _batch_norm(x: Tensor) -> ModuleType:
    """The implementation of ``batch_norm_act`` for x."""
    if runs_on("batch_norm_act", x) == "torch":
        return batch_norm_torch
    from ..batch_norm.batch_norm_act import triton_impl  # not at the top: it needs triton

    return triton_impl


def _conv2d(x: Tensor, weight: Tensor, conv: Convolution) -> Tensor:
    x, weight = _channels_last(x), _channels_last(weight)
    return _channels_last(F.conv2d(x, weight, stride=conv.stride, padding=conv.padding))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
