"""``fork_bn_act_conv2d_stats``: a tensor and the convolution of its batch norm, whose gradients are added in one pass.

Where x is read by the op and by a shortcut, autograd adds the two gradients in a pass of its own. The function returns
x once more; who reads that instead hands its gradient to the last pass of the op's backward, which reads it beside what
it reads anyway. Only an ``autograd.Function`` can return its input again, as ops of torch.library must not return an
alias; what it runs are such ops.
"""

from typing import Any

import torch
from torch import Tensor

from ...batch_norm.arguments import runs_plain_torch
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
