"""``fork_batch_norm_act``: a tensor and its batch norm, whose two gradients are added in the batch norm's own pass.

Where x is read by a batch norm and by something else, autograd adds the two gradients in a pass of its own: three
tensors read and written that the batch norm's backward could have done in passing. The function returns x once more;
who reads that instead of x hands its gradient to the op's backward. Only an ``autograd.Function`` can return its input
again, as ops of torch.library must not return an alias; what it runs are such ops.

``BranchPoint`` is that function for any op that has x and the statistics of its batch norm. Its backward keeps x and
[3, C] of statistics. Bytes moved, in units of x: forward as ``batch_norm_act`` (3 in training, 2 in eval); backward 6
(read x and grad twice and the other gradient, write dx) where the two ops apart move 8.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import backend
from ...batch_norm.statistics_input import buffers_to_update, check_statistics, statistics_of
from ..arguments import check_arguments, runs_plain_torch, runs_torch
from ..batch_norm_act.op import double_backward, empty_parameter_gradients
from ..state import Statistics
from . import torch_impl
from .reference import fork_batch_norm_act_reference

_OP = "fork_batch_norm_act"

backend.register(_OP, "triton", "torch", package=__package__)


def fork_batch_norm_act(
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
) -> tuple[Tensor, Tensor]:
    """``(x, act(BN(x)))``: the fork at the start of a pre-activation block.

    Use the first result wherever x would be used beside the batch norm, as in ``x, y = fork_batch_norm_act(x, …)``:
    then both gradients of x are added in one pass, ``dx = dx_returned + BN′(dy)``, in fp32 and rounded once. The
    arguments, dtypes, layouts and errors are those of ``batch_norm_act``, and one more:

    Args:
        statistics: mean and biased variance of x, [C] fp32, from the op that made x (``shakedrop_bn_shortcut_stats``,
            ``conv2d_stats``, ``bn_act_conv2d_stats``); only in training. They are trusted, and x's gradient goes
            through them as if they had been computed here: none goes to them. Or [3, C] from
            ``shakedrop_bn_shortcut_for_norm`` or ``bn_act_conv2d_for_norm``, which has updated the running statistics
            with them. Means are joined in fp32: where |mean| ≫ std, ``(x − mean) / std`` is off by up to
            ``3 |mean| · 2⁻²⁴ / std``, which with statistics that the op computes itself it is not.

    Returns:
        x, which shares its memory (on a GPU channels_last, copied if it was not) and must not be modified in place, and
        the result of ``batch_norm_act``. Gradients of both go to x, those of the second to weight and bias.

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """
    settings: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    settings |= {"act": act, "negative_slope": negative_slope}
    check_arguments(x, running_mean, running_var, weight, bias, num_batches_tracked, **settings)
    if statistics is not None:
        check_statistics(statistics, x, training)
    running_mean, running_var, num_batches_tracked = buffers_to_update(
        statistics, running_mean, running_var, num_batches_tracked
    )
    if runs_plain_torch(_OP, x):
        return fork_batch_norm_act_reference(
            x, running_mean, running_var, weight, bias, num_batches_tracked=num_batches_tracked, **settings
        )
    x = x.contiguous(memory_format=torch.channels_last)
    stats = statistics_of(x, statistics, running_mean, running_var, num_batches_tracked, training, momentum, eps)
    # detached: under torch.compile a function must not take one tensor twice
    return BranchPoint.apply(x, None, x.detach(), stats, weight, bias, training, act, float(negative_slope))


class BranchPoint(torch.autograd.Function):
    """``(x, b, s, …) ↦ (s, act(BN(s)))`` where s is x, or x + b computed before; its gradient is that of x and of b."""

    @staticmethod
    def forward(
        x: Tensor,
        b: Tensor | None,
        s: Tensor,
        statistics: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,
        act: str,
        negative_slope: float,
    ) -> tuple[Tensor, Tensor]:
        y = torch.ops.cifarfast.batch_norm_act(s, statistics, weight, bias, None, training, act, negative_slope)
        return s.view_as(s), y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, b, _, statistics, weight, bias, *ctx.settings = inputs
        ctx.set_materialize_grads(False)
        ctx.has_b = b is not None
        # the s that is returned: a second derivative through it is then an error, and not taken for zero
        ctx.save_for_backward(output[0], statistics, weight, bias)

    @staticmethod
    def backward(ctx: Any, other: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        ds, d_weight, d_bias = branch_gradients(other, grad, *ctx.saved_tensors, *ctx.settings)
        return ds, ds if ctx.has_b else None, None, None, d_weight, d_bias, None, None, None


def branch_gradients(
    other: Tensor | None,
    grad: Tensor | None,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *settings: Any,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias; either of the two results of a fork may have none."""
    if grad is None:
        return other, None, None
    dx, d_weight, d_bias = torch.ops.cifarfast.fork_batch_norm_act_backward(
        grad, other, x, statistics, weight, bias, *settings
    )
    return (dx, None, None) if weight is None else (dx, d_weight, d_bias)


def _implementation(x: Tensor) -> ModuleType:
    """The module with the backward function for ``x``."""
    if runs_torch(_OP, x):
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::fork_batch_norm_act_backward", mutates_args=())
def _fork_batch_norm_act_backward(
    grad: Tensor,
    other: Tensor | None,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    backward = _implementation(x).fork_batch_norm_act_bwd
    return backward(grad, other, x, statistics, weight, bias, training, act, negative_slope)


@_fork_batch_norm_act_backward.register_fake
def _fork_batch_norm_act_backward_fake(
    grad: Tensor,
    other: Tensor | None,
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


_fork_batch_norm_act_backward.register_autograd(double_backward)
