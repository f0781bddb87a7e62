"""``bn_act_conv2d``: conv(act(BN(x))), the unit of pre-activation networks; op, gradient, function, module.

The activated input is never in memory: the backward keeps x and [3, C] of statistics.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import names_misfits
from ...batch_norm.arguments import check_batch_norm, check_statistics
from ...batch_norm.batch_norm_act.statistics import input_statistics
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
    state_after,
)
from ..module import ConvAndBatchNorm
from ..reference import bn_act_conv2d_reference

_OP = "bn_act_conv2d"


@names_misfits
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
    statistics: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
    next_norm: nn.BatchNorm2d | None = None,
    return_input: bool = False,
) -> Any:
    """Batch norm, activation, then a convolution without bias.

    ``y = conv2d(act((x − mean) / √(var + eps) · weight + bias), conv_weight)``; pixels that the convolution pads are 0.
    Mean, variance and running statistics are those of ``batch_norm_act``. A block of a residual network::

        x, y, statistics = bn_act_conv2d(x, …, return_input=True, next_norm=norm)
        y = x + bn_act_conv2d(y, …, norm.running_mean, norm.running_var, …, statistics=statistics, training=True)

    Args:
        x: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch), C a multiple of 8. channels_last is the fast layout; any
            other is copied to it first.
        conv_weight: [K, C, 1, 1] or [K, C, 3, 3] in x's dtype, K a multiple of 8.
        running_mean, running_var, weight, bias: [C], as in ``batch_norm_act``.
        stride: 1 or 2.
        padding: zeros around the activated x.
        statistics: [3, C] of x, from the op that made x with this batch norm as its ``next_norm`` and has updated the
            running statistics, which are left alone here; only in training. They are trusted, and x's gradient goes
            through them as if they had been computed here: none goes to them. Means are joined in fp32: where
            |mean| ≫ std, ``(x − mean) / std`` is off by up to ``3 |mean| · 2⁻²⁴ / std``, which with statistics that
            the op computes itself it is not.
        num_batches_tracked, training, momentum, eps, act, negative_slope: as in ``batch_norm_act``.
        next_norm: the batch norm that normalises y, as in ``conv2d``.
        return_input: return x too. Use it wherever x would be used beside this op: then autograd's addition of the two
            gradients of x costs no pass of its own, ``dx = dx_returned + BN′(da)``, in fp32 and rounded once.

    Returns:
        y [N, K, P, Q] in x's dtype, channels_last (plain torch on a CPU: torch's choice). BN and activation are fp32
        and rounded once to x's dtype, products are added in fp32 and rounded once, sums have a fixed order. Gradients
        go to x, conv_weight, weight and bias. With options a tuple: x if ``return_input`` (it shares x's memory, on a
        GPU channels_last and copied if it was not, and must not be modified in place), y, and with ``next_norm`` the
        statistics of y as ``conv2d`` returns them.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, an empty batch, a single value per channel in
            training, or next_norm is not in training or its buffers do not fit y; the message begins with the
            argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """
    conv = check_convolution(x, "conv_weight", conv_weight, stride, padding)
    after = state_after(next_norm, x, conv_weight, conv)
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    check_batch_norm(x, state, weight, bias, training, act, negative_slope)
    check_statistics(statistics, x, training)
    settings: dict[str, Any] = {"training": training, "act": act, "negative_slope": float(negative_slope)}
    given = None
    if runs_plain_torch(_OP, x):
        settings |= {**state.arguments(), "weight": weight, "bias": bias, "statistics": statistics}
        y = bn_act_conv2d_reference(x, conv_weight, stride=conv.stride, padding=conv.padding, **settings)
    else:
        x = x.contiguous(memory_format=torch.channels_last)
        norm = Norm(input_statistics(x, state, training, statistics), weight, bias, **settings)
        run = forward.returning_input if return_input else forward
        *forked, y, given = run(x, conv_weight, norm, after, next_norm is not None, conv)
        x = forked[0] if forked else x
    results = (*([x] if return_input else []), y, *([] if next_norm is None else [given]))
    return y if len(results) == 1 else results


class BNActConv2d(ConvAndBatchNorm):
    """``conv(act(BN(x)))``; replaces ``torch.nn.BatchNorm2d``, its activation and the ``Conv2d`` after them.

    ``forward(x, statistics=None)`` takes [N, C, H, W] and, where the op that made x has them, x's statistics.
    See ``ConvAndBatchNorm`` for the settings, ``bn_act_conv2d`` for dtypes, layouts and errors.
    """

    norm_first = True

    def forward(self, x: Tensor, statistics: Tensor | None = None) -> Tensor:
        arguments = self._arguments(x)
        y: Tensor = bn_act_conv2d(statistics=statistics if arguments["training"] else None, **arguments)
        return y


@convolution_operator(_OP, mutates=BUFFERS, differentiable=1)
def forward(
    x: Tensor,
    conv_weight: Tensor,
    norm: Norm,
    next_norm: BatchNormState,
    wants_statistics: bool,
    conv: Convolution,
) -> tuple[Tensor, Tensor]:
    return empty_output(x, conv_weight, conv), empty_statistics(x, conv_weight, wants_statistics)


@convolution_operator(f"{_OP}_backward")
def backward(
    x: Tensor, conv_weight: Tensor, dy: Tensor, norm: Norm, other: Tensor | None, conv: Convolution, needed: Needed
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norm = norm if needed.dx else replace(norm, weight=None)
    return *empty_gradients(x, conv_weight, needed), *norm.empty_gradients()


@forward.backward(saves=lambda outputs, x, conv_weight, norm, *after: (x, conv_weight, norm, after[-1]))
def _gradients(
    dy: Tensor,
    x: Tensor,
    conv_weight: Tensor,
    norm: Norm,
    conv: Convolution,
    *,
    needs: Callable[[str], bool],
    other: Tensor | None = None,
) -> Gradients:
    needed = Needed(needs("x") or needs("weight") or needs("bias"), needs("conv_weight"))
    found = backward(x, conv_weight, dy, norm, other if needs("x") else None, conv, needed)
    return dict(zip(("x", "conv_weight", "weight", "bias"), found, strict=True))
