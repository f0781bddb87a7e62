"""``bn_act_conv2d_for_norm``: the convolution, and the statistics with which a batch norm normalises its output.

The op writes to the running statistics of that batch norm, and ops of torch.library that do must not have a gradient:
an ``autograd.Function`` around it has.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...batch_norm.arguments import runs_plain_torch
from ...batch_norm.state import BatchNormState, Statistics
from .fork import fork_bn_act_conv2d_stats
from .op import bn_act_conv2d_stats, gradients, run, save_for_gradients


def bn_act_conv2d_for_norm(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    next_norm: nn.BatchNorm2d,
    **settings: Any,
) -> tuple[Tensor, Statistics | None]:
    """``bn_act_conv2d``, and the statistics with which ``next_norm`` normalises its output in training.

    ::

        y, statistics = bn_act_conv2d_for_norm(x, …, next_norm=norm)
        z = bn_act_conv2d(y, …, norm.running_mean, norm.running_var, …, statistics=statistics, training=True)

    Where the kernel has the statistics in passing it updates the running ones of ``next_norm`` too, and returns [3, K]:
    the mean, its part below its rounding, and ``1/√(var + eps)``. The op that takes them leaves the running statistics
    alone, and its eps is not used; pass it next_norm's own buffers and settings, and let no other op normalise y with
    ``next_norm``. Under torch.compile mean and variance are returned, on plain torch None, and the running statistics
    are left to the op that normalises. No gradient goes to what is returned.

    Raises:
        ValueError: as in ``bn_act_conv2d``, or next_norm is not in training or its buffers do not fit the output.
    """
    arguments = (x, conv_weight, running_mean, running_var, weight, bias)
    return _for_norm(*arguments, next_norm=next_norm, fork=False, **settings)[1:]


def fork_bn_act_conv2d_for_norm(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    next_norm: nn.BatchNorm2d,
    **settings: Any,
) -> tuple[Tensor, Tensor, Statistics | None]:
    """x as ``fork_bn_act_conv2d_stats`` returns it, then what ``bn_act_conv2d_for_norm`` returns."""
    arguments = (x, conv_weight, running_mean, running_var, weight, bias)
    return _for_norm(*arguments, next_norm=next_norm, fork=True, **settings)


def _for_norm(
    *arguments: Any, next_norm: nn.BatchNorm2d, fork: bool, **settings: Any
) -> tuple[Tensor, Tensor, Statistics | None]:
    x = arguments[0]
    if runs_plain_torch("bn_act_conv2d", x):
        y, _ = run(*arguments, **settings, with_moments=False, next_norm=next_norm)
        return x, y, None
    if torch.compiler.is_compiling():
        # a graph must not write to buffers from within an autograd.Function
        if fork:
            x, y, mean, var = fork_bn_act_conv2d_stats(*arguments, **settings)
        else:
            y, mean, var = bn_act_conv2d_stats(*arguments, **settings)
        BatchNormState.of(next_norm, y)
        return x, y, (mean.detach(), var.detach())

    def apply(*inputs: Any) -> tuple[Any, ...]:
        return ConvolutionForNorm.apply(*inputs, fork)

    x, y, statistics = run(*arguments, **settings, with_moments=False, next_norm=next_norm, apply=apply)
    return x, y, statistics


class ConvolutionForNorm(torch.autograd.Function):
    """``cifarfast::bn_act_conv2d_for_norm``, which as an op that writes to buffers has no gradient of its own; with
    ``fork`` x is returned too, else None."""

    @staticmethod
    def forward(
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
        fork: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        settings = (training, act, negative_slope, stride, padding)
        after = (running_mean, running_var, num_batches_tracked, momentum, eps)
        y, next_statistics = torch.ops.cifarfast.bn_act_conv2d_for_norm(
            x, conv_weight, statistics, weight, bias, *settings, *after
        )
        return x.view_as(x) if fork else None, y, next_statistics

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[2])
        x = inputs[0] if output[0] is None else output[0]
        save_for_gradients(ctx, x, (*inputs[:10], False), *output[1:])

    @staticmethod
    def backward(ctx: Any, other: Tensor | None, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        return *gradients(ctx, other, dy, None)[:5], *(None,) * 11
