"""``shakedrop_bn_shortcut``: the tail of a PyramidNet block in one kernel; op, autograd, function, module.

The op takes the statistics of h and has the gradient of the whole, in training through the statistics too. The backward
keeps h and [3, C] of statistics; the coefficients are drawn again from their counters.

Bytes moved, in units of h: forward in training 3 and x (read h twice, write y; the second read hits the L2 cache where
h fits), 2 and x if the statistics are given, the same with those of y; backward 5 (read h and grad twice, write
grad_h). The gradient of an x that is not pooled is a view of grad.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import names_misfits
from ...batch_norm.arguments import check_batch_norm, check_statistics
from ...batch_norm.batch_norm_act.statistics import input_statistics
from ...batch_norm.norm import Norm
from ...batch_norm.state import BUFFERS, NO_NORM, BatchNormState
from ...library import Gradients, operator, runs_plain_torch
from ..draws import Scaling
from ..module import RandomScale
from .arguments import check_shortcut, check_true_channels

_OP = "shakedrop_bn_shortcut"


@names_misfits
def shakedrop_bn_shortcut(
    h: Tensor,
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
    keep_probability: float = 1.0,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
    level: str = "image",
    keep_level: str = "image",
    true_channels: int | None = None,
    statistics: Tensor | None = None,
    next_norm: nn.BatchNorm2d | None = None,
) -> Any:
    """The tail of a PyramidNet block: the branch's last batch norm, ShakeDrop, and the shortcut without parameters.

    ::

        y = shortcut(x) + k · ((h − mean) / √(var + eps) · weight + bias)

    k is ``b + α − b·α`` forward and ``b + β − b·β`` backward (see ``shakedrop``), p in evaluation, 1 if p is 1. The
    shortcut is x where the sides agree and otherwise the mean of its 2×2 windows, cut off at an odd side's end;
    channels that x does not have are zero. Mean, var and the running statistics are as in ``batch_norm_act``.

    Args:
        h: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch), the input of the batch norm. channels_last is the fast
            layout, with C and C_in multiples of 8; any other one is copied first.
        x: [N, C_in, H_in, W_in], the block's input, in h's dtype; 1 ≤ C_in ≤ C; sides equal to h's, or 2H or 2H − 1 and
            2W or 2W − 1.
        running_mean, running_var: [C] contiguous, fp32 or h's dtype. None: nothing to update in training, and
            evaluation normalises by h's own statistics too, as a ``BatchNorm2d`` without running statistics does.
        weight, bias: [C], fp32 or h's dtype; None for 1 and 0.
        num_batches_tracked: [] int64, incremented in training.
        training: whether the statistics are h's own, and the coefficient is drawn.
        momentum: the new batch's share of the running statistics; None for ``1 / num_batches_tracked``.
        eps: added to the variance.
        keep_probability, seed, step, layer, indices, level, keep_level: see ``shakedrop``.
        true_channels: channels from this one on are padding: their weight and bias must be zero, and get gradients of
            zero whatever the gradient of y is; None for C.
        statistics: [3, C] of h, from the op that made h with this batch norm as its ``next_norm``, as in
            ``bn_act_conv2d``; only in training.
        next_norm: the batch norm that normalises y. Its running statistics are updated with y, and the statistics with
            which it normalises are returned, at no further pass over memory. The op that takes them leaves the running
            ones alone and does not use its eps; no other op may normalise y with ``next_norm``.

    Returns:
        y [N, C, H, W] in h's dtype, channels_last, computed in fp32 and rounded once. Gradients go to h, x, weight and
        bias; sums have a fixed order. With ``next_norm`` a tuple: y and its statistics [3, C], which are those of the
        rounded y and have no gradient; None on plain torch, where the op that normalises makes its own::

            y, statistics = shakedrop_bn_shortcut(h, x, …, next_norm=norm)
            y, z = batch_norm_act(y, norm.running_mean, …, statistics=statistics, return_input=True, training=True)

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, a single value per channel where statistics
            are h's own, or next_norm is not in training or its buffers do not fit y.
        RuntimeError: a second derivative.

    Han, Kim, Kim, "Deep Pyramidal Residual Networks", CVPR 2017; Yamada, Iwamura, Akiba, Kise, "ShakeDrop
    Regularization for Deep Residual Learning", IEEE Access 7, 2019. Variances of parts are joined by Chan, Golub,
    LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    by_batch = training or running_mean is None
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    check_batch_norm(h, state, weight, bias, by_batch, name="h")
    check_shortcut(x, h)
    true_channels = check_true_channels(true_channels, h)
    check_statistics(statistics, h, training)
    scaling = Scaling(seed, step, indices, keep_probability, layer, level, keep_level).checked("h", h)
    after, wants_statistics = NO_NORM, next_norm is not None and not runs_plain_torch(_OP, h)
    if next_norm is not None:
        checked = BatchNormState.of(next_norm, h)  # y has h's shape and dtype
        after = checked if wants_statistics else NO_NORM
    h = h.contiguous(memory_format=torch.channels_last)
    state = state if training or not by_batch else state.without_buffers()
    norm = Norm(input_statistics(h, state, by_batch, statistics), weight, bias, by_batch, "identity", 0.0)
    y, given = forward(h, x, norm, scaling.seeded(h, training), true_channels, after, wants_statistics)
    return y if next_norm is None else (y, given if wants_statistics else None)


class ShakeDropTail(RandomScale, nn.BatchNorm2d):
    """``shakedrop_bn_shortcut`` as a module: a ``BatchNorm2d`` that takes ``(h, x)``, with the same ``state_dict``, and
    the function's ``statistics`` and ``next_norm``.

    With the default ``keep_probability`` of 1 it is the tail of a PyramidNet without ShakeDrop.

    Args:
        num_features: C of h.
        keep_probability: p; ``linear_keep_probability`` gives it for a block of a network.
        level, keep_level: see ``shakedrop``.
        settings: eps, momentum, affine, track_running_stats, device, dtype, as in ``torch.nn.BatchNorm2d``.

    Raises:
        ValueError: a setting that is not allowed; see ``shakedrop_bn_shortcut`` for the call.
    """

    true_channels: int | None = None

    def __init__(
        self,
        num_features: int,
        keep_probability: float = 1.0,
        *,
        level: str = "image",
        keep_level: str = "image",
        **settings: Any,
    ) -> None:
        super().__init__(
            num_features, keep_probability=keep_probability, level=level, keep_level=keep_level, **settings
        )

    def forward(  # type: ignore[override]
        self, h: Tensor, x: Tensor, statistics: Tensor | None = None, next_norm: nn.BatchNorm2d | None = None
    ) -> Any:
        return shakedrop_bn_shortcut(
            h,
            x,
            **BatchNormState.of(self).arguments(),
            weight=self.weight,
            bias=self.bias,
            training=self.training,
            true_channels=self.true_channels,
            statistics=statistics,
            next_norm=next_norm,
            **self._scale_arguments(),
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self._scale_repr()}"


@operator(_OP, mutates=BUFFERS, differentiable=1)
def forward(
    h: Tensor,
    x: Tensor,
    norm: Norm,
    scaling: Scaling,
    true_channels: int,
    next_norm: BatchNormState,
    wants_statistics: bool,
) -> tuple[Tensor, Tensor]:
    statistics = norm.statistics.new_empty((3, h.shape[1]) if wants_statistics else 0)
    return torch.empty_like(h, memory_format=torch.channels_last), statistics


@operator(f"{_OP}_backward")
def backward(
    grad: Tensor, h: Tensor, norm: Norm, scaling: Scaling, true_channels: int, in_shape: list[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = h.new_empty(0)
    if in_shape is not None:
        grad_x = torch.empty(in_shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)
    return torch.empty_like(h, memory_format=torch.channels_last), *norm.empty_gradients(), grad_x


@forward.backward(saves=lambda _, h, x, norm, scaling, true, *after: (h, norm, scaling, true, list(x.shape)))
def _gradients(
    grad: Tensor, h: Tensor, norm: Norm, scaling: Scaling, true_channels: int, in_shape: list[int]
) -> Gradients:
    pool = in_shape[2:] != list(h.shape[2:])
    grad_h, grad_weight, grad_bias, grad_x = backward(grad, h, norm, scaling, true_channels, in_shape if pool else None)
    if not pool:
        grad_x = grad if in_shape[1] == h.shape[1] else grad[:, : in_shape[1]]
    return {"h": grad_h, "x": grad_x, "weight": grad_weight, "bias": grad_bias}
