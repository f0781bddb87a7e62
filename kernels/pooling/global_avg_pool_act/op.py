"""``global_avg_pool_act``: batch norm, activation and mean over the image; the torch op, its autograd, the function.

The activated image is never written. Bytes moved, in units of x: forward in training 2 (read x twice), in eval 1;
backward 3 (read x twice, write dx). The backward keeps x and [3, C] of statistics.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import backend
from ...batch_norm.arguments import check_arguments, runs_plain_torch, runs_torch
from ...batch_norm.batch_norm_act.op import double_backward, empty_parameter_gradients
from ...batch_norm.norm_buffers import Statistics
from ...convolution.given import check_statistics, own_buffers, statistics_of
from . import torch_impl
from .reference import global_avg_pool_act_reference

_OP = "global_avg_pool_act"

backend.register(_OP, "triton", "torch", package=__package__)


def global_avg_pool_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: Statistics | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """Mean over the image of a batch norm and its activation: ``y_nc = mean_hw act(BN(x))_nchw``.

    The arguments, dtypes, layouts and errors are those of ``batch_norm_act``, whose statistics and gradients it shares;
    ``statistics`` is that of ``fork_batch_norm_act``, whose mean costs up to ``3 |mean| · 2⁻²⁴ / std`` of accuracy.

    Returns:
        [N, C] in x's dtype; sums are fp32 in a fixed order. Gradients go to x, weight and bias.

    Source: Lin, Chen, Yan, "Network in Network", ICLR 2014 (the pooling); Ioffe, Szegedy, ICML 2015 (batch norm).
    """
    settings: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    settings |= {"act": act, "negative_slope": negative_slope}
    check_arguments(x, running_mean, running_var, weight, bias, num_batches_tracked, **settings)
    if statistics is not None:
        check_statistics(statistics, x, training)
    running_mean, running_var, num_batches_tracked = own_buffers(
        statistics, running_mean, running_var, num_batches_tracked
    )
    if runs_plain_torch(_OP, x):
        return global_avg_pool_act_reference(
            x, running_mean, running_var, weight, bias, num_batches_tracked=num_batches_tracked, **settings
        )
    x = x.contiguous(memory_format=torch.channels_last)
    stats = statistics_of(x, statistics, running_mean, running_var, num_batches_tracked, training, momentum, eps)
    return torch.ops.cifarfast.global_avg_pool_act(x, stats, weight, bias, training, act, float(negative_slope))


def _implementation(x: Tensor) -> ModuleType:
    """The module with the forward and backward functions for ``x``."""
    if runs_torch(_OP, x):
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::global_avg_pool_act", mutates_args=())
def _global_avg_pool_act(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> Tensor:
    return _implementation(x).global_avg_pool_act_fwd(x, statistics, weight, bias, act, negative_slope)


@_global_avg_pool_act.register_fake
def _global_avg_pool_act_fake(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> Tensor:
    return x.new_empty(x.shape[:2])


@torch.library.custom_op("cifarfast::global_avg_pool_act_backward", mutates_args=())
def _global_avg_pool_act_backward(
    grad: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    backward = _implementation(x).global_avg_pool_act_bwd
    return backward(grad, x, statistics, weight, bias, training, act, negative_slope)


@_global_avg_pool_act_backward.register_fake
def _global_avg_pool_act_backward_fake(
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
    dx, d_weight, d_bias = torch.ops.cifarfast.global_avg_pool_act_backward(
        grad, x, statistics, weight, bias, *ctx.settings
    )
    if weight is None:
        d_weight = d_bias = None
    return dx, None, d_weight, d_bias, None, None, None


_global_avg_pool_act.register_autograd(_backward, setup_context=_setup_context)
_global_avg_pool_act_backward.register_autograd(double_backward)
