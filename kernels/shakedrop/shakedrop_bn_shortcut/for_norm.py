"""``shakedrop_bn_shortcut_for_norm``: the tail, and the statistics with which a batch norm normalises its output.

The op writes to the running statistics of that batch norm, and ops of torch.library that do must not have a gradient:
an ``autograd.Function`` around it has.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...batch_norm.state import BatchNormState, Statistics
from ..draws import Scaling
from . import torch_impl
from .op import gradients, implementation, run, save_for_gradients, shakedrop_bn_shortcut_stats


def shakedrop_bn_shortcut_for_norm(
    h: Tensor,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    next_norm: nn.BatchNorm2d,
    **settings: Any,
) -> tuple[Tensor, Statistics | None]:
    """``shakedrop_bn_shortcut``, and the statistics with which ``next_norm`` normalises its output in training.

    ::

        y, statistics = shakedrop_bn_shortcut_for_norm(h, x, …, next_norm=norm)
        y, z = fork_batch_norm_act(y, norm.running_mean, norm.running_var, …, statistics=statistics, training=True)

    As in ``bn_act_conv2d_for_norm`` the kernel updates the running statistics of ``next_norm`` and returns [3, C]; the
    op that takes them leaves those alone, and does not use its eps. Pass it next_norm's own buffers and settings; no
    other op may normalise y with ``next_norm``. Under torch.compile mean and variance are returned, on plain torch
    None, and the running statistics are left to the op that normalises.

    Raises:
        ValueError: as in ``shakedrop_bn_shortcut``, or next_norm is not in training or its buffers do not fit y.
    """
    arguments = (h, x, running_mean, running_var, weight, bias)
    if torch.compiler.is_compiling():
        y, mean, var = shakedrop_bn_shortcut_stats(*arguments, **settings)
        BatchNormState.of(next_norm, y)
        return y, (mean.detach(), var.detach())
    y, statistics = run(*arguments, **settings, with_moments=False, next_norm=next_norm, apply=_apply)
    return y, statistics


def _apply(h: Tensor, *inputs: Any) -> tuple[Tensor, Tensor | None]:
    if implementation(h) is torch_impl:  # another pass would be needed, and who normalises y has one
        return torch.ops.cifarfast.shakedrop_bn_shortcut(h, *inputs[:-5], False)[0], None
    return TailForNorm.apply(h, *inputs)


class TailForNorm(torch.autograd.Function):
    """``cifarfast::shakedrop_bn_shortcut_for_norm`` with the gradient of ``cifarfast::shakedrop_bn_shortcut``."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        y, statistics = torch.ops.cifarfast.shakedrop_bn_shortcut_for_norm(*inputs)
        return y, statistics

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        save_for_gradients(ctx, inputs[:-5], None, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        return *gradients(ctx, grad, None)[:-1], *(None,) * 5


@torch.library.custom_op(
    "cifarfast::shakedrop_bn_shortcut_for_norm", mutates_args=("running_mean", "running_var", "num_batches_tracked")
)
def _shakedrop_bn_shortcut_for_norm(
    h: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    by_batch: bool,
    seed: Tensor | None,
    step: Tensor | None,
    indices: Tensor | None,
    keep_probability: float,
    layer: int,
    level: str,
    keep_level: str,
    true_channels: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    scaling = Scaling(seed, step, indices, keep_probability, layer, level, keep_level)
    next_norm = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    forward = implementation(h).shakedrop_bn_shortcut_for_norm_fwd
    return forward(h, x, statistics, weight, bias, scaling, next_norm)


@_shakedrop_bn_shortcut_for_norm.register_fake
def _shakedrop_bn_shortcut_for_norm_fake(h: Tensor, x: Tensor, statistics: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h, memory_format=torch.channels_last), statistics.new_empty(3, h.shape[1])
