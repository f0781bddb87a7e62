"""``bn_act_conv2d`` where more is returned than an op of torch.library may return: x again, statistics of what follows.

Where x is read by the op and by a shortcut, autograd adds the two gradients in a pass of its own. The fork returns x
once more; who reads that instead hands its gradient to the last pass of the op's backward, which reads it beside what
it reads anyway. And a convolution that is followed by a batch norm has that one's statistics in passing, and updates
its running ones: without another launch. Ops of torch.library must not return an alias, and with a gradient must not
write to their inputs; an ``autograd.Function`` may do both, and what it runs are such ops.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..batch_norm_act.arguments import runs_plain_torch
from ..batch_norm_act.next_norm import Statistics
from .op import bn_act_conv2d_stats, gradients, run, save_for_gradients


def fork_bn_act_conv2d_stats(
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, then what ``bn_act_conv2d_stats`` returns: the start of a pre-activation block with a shortcut.

    Use the first result wherever x would be used beside the batch norm, as in ``x, y, mean, var = …(x, …)``: then both
    gradients of x are added in one pass, ``dx = dx_returned + BN′(da)``, in fp32 and rounded once. Arguments and errors
    are those of ``bn_act_conv2d``.

    Returns:
        x, which shares its memory (on a GPU channels_last, copied if it was not) and must not be modified in place; the
        output, and its mean and biased variance. Gradients of all four go to x, of the last three to the others too.

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """
    arguments = (x, conv_weight, running_mean, running_var, weight, bias)
    if runs_plain_torch("bn_act_conv2d", x):
        return x, *bn_act_conv2d_stats(*arguments, **settings)
    x, y, moments = run(*arguments, **settings, with_moments=True, apply=ConvolutionFork.apply)
    return x, y, moments[0], moments[1]


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
    alone; let no other op normalise y with ``next_norm``. Under torch.compile mean and variance are returned, on plain
    torch None, and the running statistics are left to the op that normalises. No gradient goes to what is returned.

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
        y, _ = run(*arguments, **settings, next_norm=next_norm)
        return x, y, None
    if torch.compiler.is_compiling():
        # a graph must not write to buffers from within an autograd.Function
        if fork:
            x, y, mean, var = fork_bn_act_conv2d_stats(*arguments, **settings)
        else:
            y, mean, var = bn_act_conv2d_stats(*arguments, **settings)
        return x, y, (mean.detach(), var.detach())
    x, y, statistics = run(
        *arguments, **settings, next_norm=next_norm, apply=lambda *inputs: ConvolutionForNorm.apply(*inputs, fork)
    )
    return x, y, statistics


class ConvolutionFork(torch.autograd.Function):
    """``cifarfast::bn_act_conv2d`` that returns x too."""

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
        with_moments: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        settings = (training, act, negative_slope, stride, padding, with_moments)
        y, moments = torch.ops.cifarfast.bn_act_conv2d(x, conv_weight, statistics, weight, bias, *settings)
        return x.view_as(x), y, moments

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        # the x that is returned: a second derivative through it is then an error, and not taken for zero
        save_for_gradients(ctx, output[0], inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return gradients(ctx, *grads)


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
