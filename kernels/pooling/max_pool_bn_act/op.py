"""``max_pool_bn_act``: batch norm, activation and 2×2 max-pooling; the torch op, its autograd, the function.

The activated image is never written, and neither are indices: the backward finds each window's maximum again from the
same values. Bytes moved, in units of x: forward in training 2¼ (read x twice, write y), in eval 1¼; backward 3½ (read x
and grad twice, write dx). The backward keeps x and [3, C] of statistics.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import backend
from ...batch_norm.arguments import check_arguments, runs_plain_torch, runs_torch
from ...batch_norm.batch_norm_act.op import double_backward, empty_parameter_gradients
from ...batch_norm.batch_norm_act.op import statistics as batch_norm_statistics
from . import torch_impl
from .reference import max_pool_bn_act_reference

_OP = "max_pool_bn_act"

backend.register(_OP, "triton", "torch", package=__package__)


def max_pool_bn_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """Maxima of a batch norm and its activation over 2×2 pixels, stride 2: ``y = max_pool2d(act(BN(x)), 2)``.

    An odd last row or column belongs to no window, though to the batch's statistics. Of equal values the first of the
    window, row by row, gets the gradient; NaN is a maximum. They are compared in fp32, before y is rounded. The
    arguments, dtypes, layouts and errors are those of ``batch_norm_act``, whose statistics it shares; H and W are at
    least 2.

    Returns:
        [N, C, H // 2, W // 2] in x's dtype, channels_last (plain torch on a CPU: x's layout). Gradients go to x, weight
        and bias.

    Source: Ioffe, Szegedy, ICML 2015 (batch norm); the pooling is ``torch.nn.MaxPool2d(2)``.
    """
    settings: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    settings |= {"act": act, "negative_slope": negative_slope}
    check_arguments(x, running_mean, running_var, weight, bias, num_batches_tracked, **settings)
    if min(x.shape[2:]) < 2:
        raise ValueError(f"x must have H and W of at least 2 for a 2×2 window, got {list(x.shape)}")
    if runs_plain_torch(_OP, x):
        return max_pool_bn_act_reference(
            x, running_mean, running_var, weight, bias, num_batches_tracked=num_batches_tracked, **settings
        )
    x = x.contiguous(memory_format=torch.channels_last)
    stats = batch_norm_statistics(x, running_mean, running_var, num_batches_tracked, training, momentum, eps)
    return torch.ops.cifarfast.max_pool_bn_act(x, stats, weight, bias, training, act, float(negative_slope))


def _implementation(x: Tensor) -> ModuleType:
    """The module with the forward and backward functions for ``x``."""
    if runs_torch(_OP, x):
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::max_pool_bn_act", mutates_args=())
def _max_pool_bn_act(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> Tensor:
    return _implementation(x).max_pool_bn_act_fwd(x, statistics, weight, bias, act, negative_slope)


@_max_pool_bn_act.register_fake
def _max_pool_bn_act_fake(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> Tensor:
    images, channels, height, width = x.shape
    y = x.new_empty(images, channels, height // 2, width // 2)
    return torch.empty_like(y, memory_format=torch.channels_last)


@torch.library.custom_op("cifarfast::max_pool_bn_act_backward", mutates_args=())
def _max_pool_bn_act_backward(
    grad: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    backward = _implementation(x).max_pool_bn_act_bwd
    return backward(grad, x, statistics, weight, bias, training, act, negative_slope)


@_max_pool_bn_act_backward.register_fake
def _max_pool_bn_act_backward_fake(
    grad: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    return dx, *empty_parameter_gradients(statistics, weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, statistics, weight, bias, *ctx.settings = inputs
    ctx.save_for_backward(x, statistics, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, statistics, weight, bias = ctx.saved_tensors
    dx, d_weight, d_bias = torch.ops.cifarfast.max_pool_bn_act_backward(
        grad, x, statistics, weight, bias, *ctx.settings
    )
    if weight is None:
        d_weight = d_bias = None
    return dx, None, d_weight, d_bias, None, None, None


_max_pool_bn_act.register_autograd(_backward, setup_context=_setup_context)
_max_pool_bn_act_backward.register_autograd(double_backward)
