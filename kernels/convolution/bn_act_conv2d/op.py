"""``bn_act_conv2d``: conv(act(BN(x))), the unit of pre-activation networks; torch ops, their autograd, the function.

``cifarfast::batch_norm_statistics`` or, where the op before has mean and variance, ``cifarfast::moments_statistics``
give the statistics and update the running ones, unless the op before did both (``…_for_norm``).
``cifarfast::bn_act_conv2d`` has the gradient of the whole. The activated input is never in memory: the backward keeps x
and [3, C] of statistics.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ... import backend
from ...batch_norm.arguments import check_arguments, contiguous_affine, runs_plain_torch
from ...batch_norm.batch_norm_act.op import empty_parameter_gradients
from ...batch_norm.norm import Norm
from ...batch_norm.state import BatchNormState, Statistics
from ...batch_norm.statistics_input import buffers_to_update, check_statistics, statistics_of
from ..arguments import (
    check_convolution,
    double_backward,
    empty_gradients,
    empty_output,
    implementation,
    output_like,
    statistics_dtype,
)
from ..conv2d_stats.op import moments_gradient
from .reference import bn_act_conv2d_reference

_OP = "bn_act_conv2d"

backend.register(_OP, "triton", "torch", package=__package__)


def bn_act_conv2d(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    statistics: Statistics | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """Batch norm, activation, then a convolution without bias.

    ``y = conv2d(act((x − mean) / √(var + eps) · weight + bias), conv_weight)``; pixels that the convolution pads are 0.
    Mean, variance and running statistics are those of ``batch_norm_act``.

    Args:
        x: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch), C a multiple of 8. channels_last is the fast layout; any
            other is copied to it first.
        conv_weight: [K, C, 1, 1] or [K, C, 3, 3] in x's dtype, K a multiple of 8.
        running_mean, running_var, weight, bias: [C], as in ``batch_norm_act``.
        stride: 1 or 2.
        padding: zeros around the activated x.
        statistics: mean and biased variance of x, [C] fp32, from the op that made x (``conv2d_stats``,
            ``bn_act_conv2d_stats``); only in training. They are trusted, and x's gradient goes through them as if they
            had been computed here: none goes to them. As those ops return them they are used without a copy. Or [3, C]
            from ``bn_act_conv2d_for_norm`` or ``shakedrop_bn_shortcut_for_norm``, which has updated the running
            statistics with them. Means are joined in fp32: where |mean| ≫ std, ``(x − mean) / std`` is off by up to
            ``3 |mean| · 2⁻²⁴ / std``, which with statistics that the op computes itself it is not.
        num_batches_tracked, training, momentum, eps, act, negative_slope: as in ``batch_norm_act``.

    Returns:
        [N, K, P, Q] in x's dtype, channels_last (plain torch on a CPU: torch's choice). BN and activation are fp32 and
        rounded once to x's dtype, products are added in fp32 and rounded once, sums have a fixed order. Gradients go to
        x, conv_weight, weight and bias.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, an empty batch, or a single value per channel
            in training; the message begins with the argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """
    arguments = (x, conv_weight, running_mean, running_var, weight, bias)
    settings: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "statistics": statistics,
        "num_batches_tracked": num_batches_tracked,
        "training": training,
        "momentum": momentum,
        "eps": eps,
        "act": act,
        "negative_slope": negative_slope,
    }
    return run(*arguments, **settings)[0]


def bn_act_conv2d_stats(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """``bn_act_conv2d``, and mean and biased variance [K] (fp32) of its output as ``conv2d_stats`` returns them.

    Arguments and errors are those of ``bn_act_conv2d``; gradients of all three results go to its inputs.
    """
    y, moments = run(x, conv_weight, running_mean, running_var, weight, bias, **settings, with_moments=True)
    return y, moments[0], moments[1]


def run(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    with_moments: bool = False,
    next_norm: nn.BatchNorm2d | None = None,
    apply: Callable[..., tuple[Any, ...]] | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    statistics: Statistics | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> tuple[Any, ...]:
    """Check, then run; the output and its moments [2, K], empty where not asked for.

    ``apply`` takes the place of ``cifarfast::bn_act_conv2d`` where kernels run, and has its arguments, with
    ``next_norm`` what that makes statistics with in the place of ``with_moments``; what it returns is returned.
    """
    stride, padding = check_convolution(x, "conv_weight", conv_weight, stride, padding)
    last: tuple[Any, ...] = (with_moments,)
    if next_norm is not None:
        last = BatchNormState.of(next_norm, output_like(x, conv_weight, stride, padding)).arguments()
    norm: dict[str, Any] = {
        "training": training,
        "momentum": momentum,
        "eps": eps,
        "act": act,
        "negative_slope": negative_slope,
    }
    check_arguments(x, running_mean, running_var, weight, bias, num_batches_tracked, **norm)
    if statistics is not None:
        check_statistics(statistics, x, training)
    running_mean, running_var, num_batches_tracked = buffers_to_update(
        statistics, running_mean, running_var, num_batches_tracked
    )
    buffers = (running_mean, running_var)
    if runs_plain_torch(_OP, x):
        y = bn_act_conv2d_reference(
            x,
            conv_weight,
            *buffers,
            weight,
            bias,
            stride=stride,
            padding=padding,
            num_batches_tracked=num_batches_tracked,
            **norm,
        )
        if not with_moments:
            return y, y.new_empty(0)
        wide = y.to(statistics_dtype(y))
        return y, torch.stack([wide.mean(dim=(0, 2, 3)), wide.var(dim=(0, 2, 3), correction=0)])
    x = x.contiguous(memory_format=torch.channels_last)
    stats = statistics_of(x, statistics, *buffers, num_batches_tracked, training, momentum, eps)
    settings = (training, act, float(negative_slope), stride, padding)
    apply = torch.ops.cifarfast.bn_act_conv2d if apply is None else apply
    return apply(x, conv_weight, stats, weight, bias, *settings, *last)


@torch.library.custom_op("cifarfast::bn_act_conv2d", mutates_args=())
def _bn_act_conv2d(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    with_moments: bool,
) -> tuple[Tensor, Tensor]:
    norm = Norm(*contiguous_affine(statistics, weight, bias), training, act, negative_slope)
    forward = implementation(_OP, x, conv_weight).bn_act_conv2d_fwd
    return forward(_OP, x, conv_weight, norm, stride, padding, with_moments)


@_bn_act_conv2d.register_fake
def _bn_act_conv2d_fake(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    with_moments: bool,
) -> tuple[Tensor, Tensor]:
    moments = statistics.new_empty((2, conv_weight.shape[0]) if with_moments else 0)
    return empty_output(x, conv_weight, stride, padding), moments


@torch.library.custom_op(
    "cifarfast::bn_act_conv2d_for_norm", mutates_args=("running_mean", "running_var", "num_batches_tracked")
)
def _bn_act_conv2d_for_norm(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    norm = Norm(*contiguous_affine(statistics, weight, bias), training, act, negative_slope)
    next_norm = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    forward = implementation(_OP, x, conv_weight).bn_act_conv2d_for_norm_fwd
    return forward(_OP, x, conv_weight, norm, next_norm, stride, padding)


@_bn_act_conv2d_for_norm.register_fake
def _bn_act_conv2d_for_norm_fake(
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    return empty_output(x, conv_weight, stride, padding), statistics.new_empty(3, conv_weight.shape[0])


@torch.library.custom_op("cifarfast::bn_act_conv2d_backward", mutates_args=())
def _bn_act_conv2d_backward(
    dy: Tensor,
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    other: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norm = Norm(*contiguous_affine(statistics, weight, bias), training, act, negative_slope)
    backward = implementation(_OP, x, conv_weight).bn_act_conv2d_bwd
    return backward(_OP, dy, x, conv_weight, norm, stride, padding, need_dx, need_dw, other)


@_bn_act_conv2d_backward.register_fake
def _bn_act_conv2d_backward_fake(
    dy: Tensor,
    x: Tensor,
    conv_weight: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    other: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    stride: int,
    padding: int,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parameters = empty_parameter_gradients(statistics, weight if need_dx else None)
    return *empty_gradients(x, conv_weight, need_dx, need_dw), *parameters


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save_for_gradients(ctx, inputs[0], inputs, *output)


def save_for_gradients(ctx: Any, x: Tensor, inputs: tuple[Any, ...], y: Tensor, moments: Tensor) -> None:
    """Keep what ``gradients`` reads: of the op's inputs, with ``x`` for the first, and of its results."""
    _, conv_weight, statistics, weight, bias, *ctx.settings, with_moments = inputs
    ctx.set_materialize_grads(False)
    saved = (y, moments) if with_moments else (None, None)
    ctx.save_for_backward(x, conv_weight, statistics, weight, bias, *saved)


def _backward(ctx: Any, dy: Tensor | None, d_moments: Tensor | None) -> tuple[Tensor | None, ...]:
    return gradients(ctx, None, dy, d_moments)


def gradients(ctx: Any, other: Tensor | None, dy: Tensor | None, d_moments: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of the op's inputs; ``other`` is added to that of x."""
    *inputs, y, moments = ctx.saved_tensors
    if moments is not None:
        dy = moments_gradient(dy, d_moments, y, moments[0])
    none = (None,) * 6
    if dy is None:
        return (other, *(None,) * 4, *none)
    need_x, need_dw, _, need_weight, need_bias = ctx.needs_input_grad[:5]
    need_dx = need_x or need_weight or need_bias
    dx, dw, d_weight, d_bias = torch.ops.cifarfast.bn_act_conv2d_backward(
        dy, *inputs, other if need_x else None, *ctx.settings, need_dx, need_dw
    )
    return (
        dx if need_x else None,
        dw if need_dw else None,
        None,
        d_weight if need_weight else None,
        d_bias if need_bias else None,
        *none,
    )


_bn_act_conv2d.register_autograd(_backward, setup_context=_setup_context)
_bn_act_conv2d_backward.register_autograd(double_backward)
