"""``conv2d_bn_act``: act(BN(conv(x)) [+ residual]), of post-activation networks; ops, gradient, function, module.

In training the convolution's epilogue makes BN's statistics and updates the running ones, so its output is read once,
by the kernel that normalises and activates it. The op that has the gradient keeps x and the convolution's output, with
a residual what ``batch_norm_act`` keeps too. In eval without gradients BN is folded into the epilogue: one kernel.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...batch_norm.arguments import check_batch_norm, check_residual
from ...batch_norm.batch_norm_act.statistics import statistics_before
from ...batch_norm.norm import Norm
from ...batch_norm.state import BUFFERS, BatchNormState
from ...library import Gradients, runs_plain_torch
from ..arguments import (
    Convolution,
    Needed,
    check_convolution,
    convolution_operator,
    empty_gradients,
    empty_output,
    empty_statistics,
    output_like,
)
from ..module import ConvAndBatchNorm, cast
from ..reference import conv2d_bn_act_reference

_OP = "conv2d_bn_act"
_RESULT = "the convolution's result"


@names_misfits
def conv2d_bn_act(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """A convolution without bias, then batch norm, the residual if there is one, and the activation.

    ``z = act((y − mean) / √(var + eps) · weight + bias [+ residual])`` with ``y = conv2d(x, conv_weight)``; mean,
    variance and running statistics are those of ``batch_norm_act`` for y.

    Args:
        x: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch), C a multiple of 8. channels_last is the fast layout; any
            other is copied to it first.
        conv_weight: [K, C, 1, 1] or [K, C, 3, 3] in x's dtype, K a multiple of 8.
        running_mean, running_var, weight, bias: [K], as in ``batch_norm_act``.
        residual: [N, K, P, Q], the result's shape, in x's dtype.
        stride: 1 or 2.
        padding: zeros around x.
        num_batches_tracked, training, momentum, eps, act, negative_slope: as in ``batch_norm_act``.

    Returns:
        [N, K, P, Q] in x's dtype, channels_last (plain torch on a CPU: torch's choice). Products are added in fp32
        and y is rounded once; BN and activation are fp32 and rounded once. In eval without gradients the Triton kernel
        does not round y: BN is folded into it. Sums have a fixed order. Gradients go to x, conv_weight, weight, bias
        and residual.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, an empty batch, or a single value per channel
            in training; the message begins with the argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Source: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015; He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    conv = check_convolution(x, "conv_weight", conv_weight, stride, padding)
    y_like = output_like(x, conv_weight, conv)
    if training and y_like.numel() == y_like.shape[1]:
        found = f"{list(y_like.shape)} of x {list(x.shape)}"
        raise ValueError(f"x must give {_RESULT} more than one value per channel in training, got {found}")
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    check_batch_norm(y_like, state, weight, bias, training, act, negative_slope, name=_RESULT)
    if residual is not None:
        check_residual(residual, y_like, of=_RESULT)
    if runs_plain_torch(_OP, x):
        settings = {**state.arguments(), "training": training, "act": act, "negative_slope": negative_slope}
        settings |= {"weight": weight, "bias": bias, "residual": residual}
        return conv2d_bn_act_reference(x, conv_weight, stride=conv.stride, padding=conv.padding, **settings)
    x = x.contiguous(memory_format=torch.channels_last)
    statistics, state = statistics_before(x, state, training)
    norm = Norm(statistics, weight, bias, training, act, float(negative_slope))
    if not training and not _needs_gradient(x, conv_weight, weight, bias, residual):
        return folded(x, conv_weight, norm, residual, conv)
    return forward(x, conv_weight, norm, residual, state, conv)[0]


class ConvBNAct2d(ConvAndBatchNorm):
    """``act(BN(conv(x)) [+ residual])``; replaces ``torch.nn.Conv2d``, the ``BatchNorm2d`` after it and its activation.

    ``forward(x, residual=None)`` takes [N, C, H, W] and a residual of the result's shape. See ``ConvAndBatchNorm`` for
    the settings, ``conv2d_bn_act`` for dtypes, layouts and errors.
    """

    norm_first = False

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return conv2d_bn_act(residual=residual if residual is None else cast(residual), **self._arguments(x))


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


@convolution_operator(_OP, mutates=BUFFERS, differentiable=1)
def forward(
    x: Tensor, conv_weight: Tensor, norm: Norm, residual: Tensor | None, own: BatchNormState, conv: Convolution
) -> tuple[Tensor, Tensor, Tensor]:
    y = empty_output(x, conv_weight, conv)
    return torch.empty_like(y), y, empty_statistics(x, conv_weight, norm.training)


@convolution_operator(f"{_OP}_folded")
def folded(x: Tensor, conv_weight: Tensor, norm: Norm, residual: Tensor | None, conv: Convolution) -> Tensor:
    return empty_output(x, conv_weight, conv)


@convolution_operator(f"{_OP}_backward")
def backward(
    x: Tensor,
    conv_weight: Tensor,
    dz: Tensor,
    y: Tensor,
    norm: Norm,
    saved: Tensor | None,
    conv: Convolution,
    needed: Needed,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_residual = y.new_empty(0) if saved is None else torch.empty_like(y, memory_format=torch.channels_last)
    return *empty_gradients(x, conv_weight, needed), *norm.empty_gradients(), d_residual


def _saved(
    outputs: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    conv_weight: Tensor,
    norm: Norm,
    residual: Tensor | None,
    own: BatchNormState,
    conv: Convolution,
) -> tuple[Any, ...]:
    z, y, statistics = outputs
    if norm.training:
        norm = replace(norm, statistics=statistics)
    saved = None
    if residual is not None and norm.act != "identity":
        saved = z if norm.act == "relu" else residual
    return x, conv_weight, y, norm, saved, conv


@forward.backward(saves=_saved)
def _gradients(
    dz: Tensor,
    x: Tensor,
    conv_weight: Tensor,
    y: Tensor,
    norm: Norm,
    saved: Tensor | None,
    conv: Convolution,
    *,
    needs: Callable[[str], bool],
) -> Gradients:
    needed = Needed(needs("x"), needs("conv_weight"))
    found = backward(x, conv_weight, dz, y, norm, saved, conv, needed)
    gradients = dict(zip(("x", "conv_weight", "weight", "bias", "residual"), found, strict=True))
    return gradients if saved is not None else {**gradients, "residual": dz}
