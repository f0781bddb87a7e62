"""``shakedrop_bn_shortcut``: the tail of a PyramidNet block in one kernel; the torch op, its autograd and the function.

The statistics of the batch norm come from ``cifarfast::batch_norm_statistics`` or, where the op before has mean and
variance, from ``cifarfast::moments_statistics``; both update the running ones. Or the op before made them, and updated
those (``bn_act_conv2d_for_norm``). The op here takes them and has the gradient of the whole, in training through the
statistics too. The backward keeps h and [3, C] of statistics; the coefficients are drawn again from their counters.
With the output's moments it keeps the output too, which the next op keeps anyway.

Bytes moved, in units of h: forward in training 3 and x (read h twice, write y; the second read hits the L2 cache where
h fits), 2 and x if the statistics are given, the same with the output's moments; backward 5 (read h and grad twice,
write grad_h). The gradient of an x that is not pooled is a view of grad.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ... import backend
from ...batch_norm.batch_norm_act.op import double_backward, empty_parameter_gradients
from ...batch_norm.state import BatchNormState, Statistics
from ...batch_norm.statistics_input import check_statistics, statistics_of
from ...convolution.conv2d_stats.op import moments_gradient
from ..draws import Scaling
from ..op import check_scaling, drawing_seed
from . import torch_impl
from .arguments import check_batch_norm, check_tensors, check_true_channels

_OP = "shakedrop_bn_shortcut"

backend.register(_OP, "triton", "torch", package=__package__)


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
    statistics: Statistics | None = None,
) -> Tensor:
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
        statistics: mean and biased variance of h, [C] fp32, from the op that made h (``bn_act_conv2d_stats``); only in
            training. They are trusted, and h's gradient goes through them as if they had been computed here. Or [3, C]
            from ``bn_act_conv2d_for_norm``, which has updated the running statistics with them. Means are joined in
            fp32: where |mean| ≫ std, ``(h − mean) / std`` is off by up to ``3 |mean| · 2⁻²⁴ / std``, which with
            statistics that the op computes itself it is not.

    Returns:
        [N, C, H, W] in h's dtype, channels_last, computed in fp32 and rounded once. Gradients go to h, x, weight and
        bias; sums have a fixed order.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, or a single value per channel where statistics
            are h's own.
        RuntimeError: a second derivative.

    Han, Kim, Kim, "Deep Pyramidal Residual Networks", CVPR 2017; Yamada, Iwamura, Akiba, Kise, "ShakeDrop
    Regularization for Deep Residual Learning", IEEE Access 7, 2019.
    """
    settings: dict[str, Any] = {
        "num_batches_tracked": num_batches_tracked,
        "training": training,
        "momentum": momentum,
        "eps": eps,
        "keep_probability": keep_probability,
        "seed": seed,
        "step": step,
        "layer": layer,
        "indices": indices,
        "level": level,
        "keep_level": keep_level,
        "true_channels": true_channels,
        "statistics": statistics,
    }
    return run(h, x, running_mean, running_var, weight, bias, **settings)[0]


def shakedrop_bn_shortcut_stats(
    h: Tensor,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """``shakedrop_bn_shortcut``, and mean and biased variance [C] (fp32) of its rounded output.

    ``mean_c = Σ y[:, c] / M``, ``var_c = Σ (y[:, c] − mean_c)² / M`` over the M = N·H·W pixels. The kernel that writes
    y has them at no further pass over memory, and the next batch norm, ``fork_batch_norm_act(y, …, statistics=(mean,
    var))``, need not read y for them. Arguments and errors are those of ``shakedrop_bn_shortcut``; gradients of all
    three results go to its inputs.

    Variances of parts are joined by Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """
    y, moments = run(h, x, running_mean, running_var, weight, bias, **settings, with_moments=True)
    return y, moments[0], moments[1]


def run(
    h: Tensor,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    with_moments: bool = False,
    next_norm: nn.BatchNorm2d | None = None,
    apply: Callable[..., tuple[Tensor, Any]] | None = None,
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
    statistics: Statistics | None = None,
) -> tuple[Tensor, Any]:
    """Check, then run; the output and its moments [2, C], empty where not asked for.

    ``apply`` takes the place of ``cifarfast::shakedrop_bn_shortcut`` and has its arguments, with ``next_norm`` what
    that makes statistics with in the place of ``with_moments``; what it returns is returned.
    """
    check_tensors(h, x, training or running_mean is None)
    check_batch_norm(h, running_mean, running_var, weight, bias, num_batches_tracked, training, momentum, eps)
    check_scaling("h", h, keep_probability, seed, step, layer, indices, level, keep_level)
    true_channels = check_true_channels(true_channels, h)
    if statistics is not None:
        check_statistics(statistics, h, training)
    last = (with_moments,) if next_norm is None else BatchNormState.of(next_norm, h).arguments()
    seed = drawing_seed(h, keep_probability, training, seed)
    h = h.contiguous(memory_format=torch.channels_last)
    by_batch = training or running_mean is None
    buffers = (running_mean, running_var, num_batches_tracked if training else None)
    stats = statistics_of(h, statistics, *buffers, by_batch, momentum, eps)
    scaling = (seed, step, indices, float(keep_probability), layer, level, keep_level)
    apply = torch.ops.cifarfast.shakedrop_bn_shortcut if apply is None else apply
    return apply(h, x, stats, weight, bias, by_batch, *scaling, true_channels, *last)


def implementation(h: Tensor) -> ModuleType:
    """The module with ``shakedrop_bn_shortcut_fwd`` and ``shakedrop_bn_shortcut_bwd`` for this h."""
    if h.dtype == torch.float64 or backend.choose(_OP, h.device).backend == "torch":
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::shakedrop_bn_shortcut", mutates_args=())
def _shakedrop_bn_shortcut(
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
    with_moments: bool,
) -> tuple[Tensor, Tensor]:
    scaling = Scaling(seed, step, indices, keep_probability, layer, level, keep_level)
    return implementation(h).shakedrop_bn_shortcut_fwd(h, x, statistics, weight, bias, scaling, with_moments)


@_shakedrop_bn_shortcut.register_fake
def _shakedrop_bn_shortcut_fake(h: Tensor, x: Tensor, statistics: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    moments = statistics.new_empty((2, h.shape[1]) if settings[-1] else 0)
    return torch.empty_like(h, memory_format=torch.channels_last), moments


@torch.library.custom_op("cifarfast::shakedrop_bn_shortcut_backward", mutates_args=())
def _shakedrop_bn_shortcut_backward(
    grad: Tensor,
    h: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    in_shape: list[int] | None,
    by_batch: bool,
    seed: Tensor | None,
    step: Tensor | None,
    indices: Tensor | None,
    keep_probability: float,
    layer: int,
    level: str,
    keep_level: str,
    true_channels: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scaling = Scaling(seed, step, indices, keep_probability, layer, level, keep_level)
    shape = None if in_shape is None else tuple(in_shape)
    backward = implementation(h).shakedrop_bn_shortcut_bwd
    return backward(grad, h, statistics, weight, shape, by_batch, scaling, true_channels)


@_shakedrop_bn_shortcut_backward.register_fake
def _shakedrop_bn_shortcut_backward_fake(
    grad: Tensor, h: Tensor, statistics: Tensor, weight: Tensor | None, in_shape: list[int] | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = h.new_empty(0)
    if in_shape is not None:
        grad_x = torch.empty(in_shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)
    grad_h = torch.empty_like(h, memory_format=torch.channels_last)
    return grad_h, *empty_parameter_gradients(statistics, weight), grad_x


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save_for_gradients(ctx, inputs[:-1], *(output if inputs[-1] else (None, None)))


def save_for_gradients(ctx: Any, inputs: tuple[Any, ...], y: Tensor | None, moments: Tensor | None) -> None:
    """Keep what ``gradients`` reads: of the op's inputs but ``with_moments``, and of its results if it has moments."""
    h, x, statistics, weight, _, ctx.by_batch, seed, step, indices, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(h, statistics, weight, seed, step, indices, y, moments)
    ctx.in_shape = list(x.shape)


def gradients(ctx: Any, grad: Tensor | None, d_moments: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of the op's inputs."""
    h, statistics, weight, *counters, y, moments = ctx.saved_tensors
    if moments is not None:
        grad = moments_gradient(grad, d_moments, y, moments[0])
    if grad is None:
        return (None,) * 15
    pool = ctx.in_shape[2:] != list(h.shape[2:])
    grad_h, grad_weight, grad_bias, grad_x = torch.ops.cifarfast.shakedrop_bn_shortcut_backward(
        grad, h, statistics, weight, ctx.in_shape if pool else None, ctx.by_batch, *counters, *ctx.settings
    )
    if not pool:
        grad_x = grad if ctx.in_shape == list(h.shape) else grad[:, : ctx.in_shape[1]]
    parameters = (None, None) if weight is None else (grad_weight, grad_bias)
    return grad_h, grad_x, None, *parameters, *(None,) * 10


_shakedrop_bn_shortcut.register_autograd(gradients, setup_context=_setup_context)
_shakedrop_bn_shortcut_backward.register_autograd(double_backward)
