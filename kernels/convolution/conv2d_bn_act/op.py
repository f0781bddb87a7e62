"""``conv2d_bn_act``: act(BN(conv(x)) [+ residual]), the unit of post-activation networks; ops, autograd, function.

In training the convolution's epilogue has BN's statistics, so its output is read once, by the kernel that normalises
and activates it. In eval without gradients BN is folded into the epilogue: one kernel. ``cifarfast::conv2d_bn_act`` has
the gradient of the whole and keeps x and the convolution's output, with a residual what ``batch_norm_act`` keeps too.
Running statistics are updated by the epilogue in ``cifarfast::conv2d_bn_act_running``, which as an op that writes to
them must have no gradient: an ``autograd.Function`` around it has. Under torch.compile the op with a gradient returns
the moments, and ``cifarfast::moments_statistics`` updates the running statistics.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import backend
from ...batch_norm.arguments import check_arguments, check_residual, contiguous_affine, runs_plain_torch
from ...batch_norm.batch_norm_act.op import empty_parameter_gradients
from ...batch_norm.batch_norm_act.op import statistics as batch_norm_statistics
from ...batch_norm.norm import Norm
from ...batch_norm.state import BatchNormState
from ..arguments import (
    check_convolution,
    double_backward,
    empty_gradients,
    empty_output,
    implementation,
    output_like,
    statistics_dtype,
)
from ..moments import moments_statistics
from .reference import conv2d_bn_act_reference

_OP = "conv2d_bn_act"
_RESULT = "the convolution's result"

backend.register(_OP, "triton", "torch", package=__package__)


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
    stride, padding = check_convolution(x, "conv_weight", conv_weight, stride, padding)
    y_like = output_like(x, conv_weight, stride, padding)
    if training and y_like.numel() == y_like.shape[1]:
        found = f"{list(y_like.shape)} of x {list(x.shape)}"
        raise ValueError(f"x must give {_RESULT} more than one value per channel in training, got {found}")
    buffers = (running_mean, running_var)
    norm: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    norm |= {"act": act, "negative_slope": negative_slope}
    check_arguments(y_like, *buffers, weight, bias, num_batches_tracked, **norm, name=_RESULT)
    if residual is not None:
        check_residual(residual, y_like, of=_RESULT)
    if runs_plain_torch(_OP, x):
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "num_batches_tracked": num_batches_tracked}
        norm |= geometry
        return conv2d_bn_act_reference(x, conv_weight, running_mean, running_var, weight, bias, residual, **norm)
    x = x.contiguous(memory_format=torch.channels_last)
    settings = (act, float(negative_slope), stride, padding)
    momentum = None if momentum is None else float(momentum)
    if training and not torch.compiler.is_compiling():
        inputs = (x, conv_weight, weight, bias, residual, *settings)
        z, _, _ = RunningConvolution.apply(*inputs, *buffers, num_batches_tracked, momentum, float(eps))
        return z
    stats = x.new_empty(0, dtype=statistics_dtype(x))
    if not training:
        stats = batch_norm_statistics(y_like, *buffers, None, False, momentum, eps)
        if not _needs_gradient(x, conv_weight, weight, bias, residual):
            return torch.ops.cifarfast.conv2d_bn_act_folded(x, conv_weight, stats, weight, bias, residual, *settings)
    z, _, _, moments = torch.ops.cifarfast.conv2d_bn_act(
        x, conv_weight, stats, weight, bias, residual, training, float(eps), *settings
    )
    if training and running_mean is not None:
        moments_statistics(moments, *buffers, num_batches_tracked, y_like.numel() // y_like.shape[1], momentum, eps)
    elif training and num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    return z


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


@torch.library.custom_op("cifarfast::conv2d_bn_act", mutates_args=())
def _conv2d_bn_act(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    eps: float,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norm = Norm(*contiguous_affine(statistics, weight, bias), training, act, negative_slope)
    forward = implementation(_OP, x, conv_weight).conv2d_bn_act_fwd
    return forward(_OP, x, conv_weight, norm, residual, eps, stride, padding)


@_conv2d_bn_act.register_fake
def _conv2d_bn_act_fake(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    eps: float,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = empty_output(x, conv_weight, stride, padding)
    channels = conv_weight.shape[0]
    moments = statistics.new_empty((2, channels) if training else 0)
    return torch.empty_like(y), y, statistics.new_empty(3, channels), moments


@torch.library.custom_op(
    "cifarfast::conv2d_bn_act_running", mutates_args=("running_mean", "running_var", "num_batches_tracked")
)
def _conv2d_bn_act_running(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    unread = x.new_empty(0, dtype=statistics_dtype(x))
    norm = Norm(*contiguous_affine(unread, weight, bias), True, act, negative_slope)
    own = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    forward = implementation(_OP, x, conv_weight).conv2d_bn_act_running_fwd
    return forward(_OP, x, conv_weight, norm, own, residual, stride, padding)


@_conv2d_bn_act_running.register_fake
def _conv2d_bn_act_running_fake(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    y = empty_output(x, conv_weight, stride, padding)
    return torch.empty_like(y), y, x.new_empty(3, conv_weight.shape[0], dtype=statistics_dtype(x))


@torch.library.custom_op("cifarfast::conv2d_bn_act_folded", mutates_args=())
def _conv2d_bn_act_folded(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
) -> Tensor:
    norm = Norm(*contiguous_affine(statistics, weight, bias), False, act, negative_slope)
    folded = implementation(_OP, x, conv_weight).conv2d_bn_act_folded
    return folded(_OP, x, conv_weight, norm, residual, stride, padding)


@_conv2d_bn_act_folded.register_fake
def _conv2d_bn_act_folded_fake(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
) -> Tensor:
    return empty_output(x, conv_weight, stride, padding)


@torch.library.custom_op("cifarfast::conv2d_bn_act_backward", mutates_args=())
def _conv2d_bn_act_backward(
    dz: Tensor,
    x: Tensor,
    y: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Tensor | None,
    has_residual: bool,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    norm = Norm(*contiguous_affine(statistics, weight, bias), training, act, negative_slope)
    backward = implementation(_OP, x, conv_weight).conv2d_bn_act_bwd
    return backward(_OP, dz, x, y, conv_weight, norm, saved, has_residual, stride, padding, need_dx, need_dw)


@_conv2d_bn_act_backward.register_fake
def _conv2d_bn_act_backward_fake(
    dz: Tensor,
    x: Tensor,
    y: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Tensor | None,
    has_residual: bool,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    stores = has_residual and act != "identity"
    d_residual = torch.empty_like(y, memory_format=torch.channels_last) if stores else y.new_empty(0)
    parameters = empty_parameter_gradients(statistics, weight)
    return *empty_gradients(x, conv_weight, need_dx, need_dw), *parameters, d_residual


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, conv_weight, _, weight, bias, residual, training, _, *settings = inputs
    z, y, statistics, moments = output
    ctx.mark_non_differentiable(y, statistics, moments)
    _save_for_gradients(ctx, (x, conv_weight, weight, bias, residual), training, settings, (z, y, statistics))


def _save_for_gradients(
    ctx: Any, inputs: tuple[Any, ...], training: bool, settings: Sequence[Any], output: tuple[Tensor, ...]
) -> None:
    """Keep what ``_gradients`` reads."""
    x, conv_weight, weight, bias, residual = inputs
    z, y, statistics = output
    ctx.act = settings[0]
    ctx.set_materialize_grads(False)
    ctx.settings = (residual is not None, training, *settings)
    saved = None
    if residual is not None and ctx.act != "identity":
        saved = z if ctx.act == "relu" else residual
    ctx.save_for_backward(x, y, conv_weight, statistics, weight, bias, saved)


def _gradients(ctx: Any, dz: Tensor | None, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of x, the convolution's weight, BN's weight and bias, and the residual."""
    if dz is None:
        return (None,) * 5
    need_dx, need_dw, need_weight, need_bias, need_residual = needed
    dx, dw, d_weight, d_bias, d_residual = torch.ops.cifarfast.conv2d_bn_act_backward(
        dz, *ctx.saved_tensors, *ctx.settings, need_dx, need_dw
    )
    if ctx.act == "identity":
        d_residual = dz
    return (
        dx if need_dx else None,
        dw if need_dw else None,
        d_weight if need_weight else None,
        d_bias if need_bias else None,
        d_residual if need_residual else None,
    )


def _backward(ctx: Any, dz: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    need_dx, need_dw, _, *others = ctx.needs_input_grad[:6]
    dx, dw, *gradients = _gradients(ctx, dz, (need_dx, need_dw, *others))
    return dx, dw, None, *gradients, *(None,) * 6


class RunningConvolution(torch.autograd.Function):
    """``cifarfast::conv2d_bn_act_running`` with the gradient of ``cifarfast::conv2d_bn_act``."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        z, y, statistics = torch.ops.cifarfast.conv2d_bn_act_running(*inputs)
        return z, y, statistics

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        _save_for_gradients(ctx, inputs[:5], True, inputs[5:9], output)

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, dz, ctx.needs_input_grad[:5]), *(None,) * 9


_conv2d_bn_act.register_autograd(_backward, setup_context=_setup_context)
_conv2d_bn_act_backward.register_autograd(double_backward)
