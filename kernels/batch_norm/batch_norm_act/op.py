"""``batch_norm_act``: batch norm, residual and activation; the torch ops, their autograd and the function.

Two ops make up the function. ``cifarfast::batch_norm_statistics`` reads x once and updates the running statistics,
which it declares as mutated; ops with autograd must be functional, so it has none. ``cifarfast::batch_norm_act`` takes
the statistics and has the gradient of the whole: in training through the statistics too, in eval not. Whoever has the
statistics from elsewhere calls the second alone.

Memory that the backward keeps: x, [3, C] of statistics, and with a residual

* identity: nothing more, since the residual's gradient is the incoming one;
* relu: y, which the next op keeps anyway; ``y > 0`` is the mask;
* any other activation: the residual, for the pre-activation cannot be had from a rounded y.

Bytes moved, in units of x: forward in training 3 (read x twice, write y; the second read hits the L2 cache where x
fits), in eval 2, with a residual one more. Backward 5 (read x and grad twice, write dx); with a residual and an
activation 7 (the first pass reads grad, x and what was saved and writes the residual's gradient; the second reads that
and x and writes dx). Dropout adds no bytes but those of a residual's gradient, 1 for identity: its mask is drawn again
wherever it is needed.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import backend
from ...dropout.draws import Dropping
from ..arguments import check_arguments, check_residual, runs_plain_torch, runs_torch
from ..state import BatchNormState
from . import torch_impl
from .reference import batch_norm_act_reference
from .statistics import input_statistics, running_statistics

__all__ = ["batch_norm_act", "running_statistics", "statistics"]

_OP = "batch_norm_act"

backend.register(_OP, "triton", "torch", package=__package__)


def batch_norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Batch norm, then the residual if there is one, then the activation, then dropout if that is asked for.

    ``y = act((x − mean) / √(var + eps) · weight + bias [+ residual])``, per channel over batch and image; with
    ``dropout_p`` it is ``y / (1 − dropout_p)`` where an element stays, else 0, as in ``dropout``. In training mean and
    (biased) var are those of x and ``running = (1 − momentum) · running + momentum · (mean, unbiased var)``; in eval
    they are the running ones. The running statistics are updated in place, everything else is only read.

    Args:
        x: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch). channels_last is the fast layout; on a GPU any other one
            is copied to it first.
        running_mean, running_var: [C] contiguous, fp32 or x's dtype. None in training: nothing to update.
        weight, bias: [C], the running statistics' dtype; None for 1 and 0.
        residual: x's shape and dtype.
        num_batches_tracked: [] int64, incremented in training.
        training: whether the statistics are x's own.
        momentum: the new batch's share of the running statistics; None for ``1 / num_batches_tracked`` (all batches'
            mean).
        eps: added to the variance.
        act: identity, relu, leaky_relu, silu, gelu (exact), elu, selu, sigmoid, tanh or softsign.
        negative_slope: of leaky_relu.
        dropout_p: in [0, 1], the share of elements to drop, used to 16 bits; whatever ``training`` is, so 0 in eval.
        seed, step, layer, indices: of the draws, see ``dropout``; used only with ``dropout_p``.

    Returns:
        [N, C, H, W] in x's dtype, channels_last (plain torch on a CPU: x's layout). Statistics, pre-activation and sums
        are fp32, rounded once, in a fixed order. Gradients go to x, weight, bias and residual.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit; an empty batch or a single value per channel in
            training. The message begins with the argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Source: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015. Variances by Welford, "Note on a method for calculating corrected sums of squares and products",
    Technometrics 1962, on values shifted by each channel's first.
    """
    check_arguments(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        num_batches_tracked,
        training=training,
        momentum=momentum,
        eps=eps,
        act=act,
        negative_slope=negative_slope,
    )
    if residual is not None:
        check_residual(residual, x)
    seed = Dropping(seed, step, indices, dropout_p, layer).checked(x, "dropout_p").seeded(x).seed
    if runs_plain_torch(_OP, x):
        return batch_norm_act_reference(
            x,
            running_mean,
            running_var,
            weight,
            bias,
            residual,
            num_batches_tracked=num_batches_tracked,
            training=training,
            momentum=momentum,
            eps=eps,
            act=act,
            negative_slope=negative_slope,
            dropout_p=dropout_p,
            seed=seed,
            step=step,
            layer=layer,
            indices=indices,
        )
    x = x.contiguous(memory_format=torch.channels_last)
    stats = statistics(x, running_mean, running_var, num_batches_tracked, training, momentum, eps)
    settings = (training, act, float(negative_slope))
    dropping = () if seed is None else (seed, step, indices, float(dropout_p), layer)
    return torch.ops.cifarfast.batch_norm_act(x, stats, weight, bias, residual, *settings, *dropping)


def statistics(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """The statistics that normalise ``x``, [3, C]: mean, the mean's part below its rounding, ``1/√(var + eps)``.

    fp32 (fp64 for fp64 x). In training the running statistics are updated.
    """
    momentum = None if momentum is None else float(momentum)
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, float(eps))
    return input_statistics(x, state, training)


def writable(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float | None
) -> tuple[Tensor | None, Tensor | None, float | None]:
    """Running statistics and momentum as an op that updates the running statistics of ``x`` can take them."""
    momentum = None if momentum is None else float(momentum)
    if running_mean is None and running_var is None and torch.compiler.is_compiling():
        # inductor cannot lower a mutating op when nothing that it mutates is there
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        running_mean, running_var = x.new_zeros((2, x.shape[1]), dtype=dtype).unbind()
        momentum = 0.0
    return running_mean, running_var, momentum


def _implementation(x: Tensor) -> ModuleType:
    """The module with the forward, backward and statistics functions for ``x``."""
    if runs_torch(_OP, x):
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::batch_norm_act", mutates_args=())
def _batch_norm_act(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    indices: Tensor | None = None,
    dropout_p: float = 0.0,
    layer: int = 0,
) -> Tensor:
    dropping = Dropping(seed, step, indices, dropout_p, layer)
    forward = _implementation(x).batch_norm_act_fwd
    return forward(x, statistics, weight, bias, residual, act, negative_slope, dropping)


@_batch_norm_act.register_fake
def _batch_norm_act_fake(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    indices: Tensor | None = None,
    dropout_p: float = 0.0,
    layer: int = 0,
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("cifarfast::batch_norm_act_backward", mutates_args=())
def _batch_norm_act_backward(
    grad: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Tensor | None,
    has_residual: bool,
    training: bool,
    act: str,
    negative_slope: float,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    indices: Tensor | None = None,
    dropout_p: float = 0.0,
    layer: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dropping = Dropping(seed, step, indices, dropout_p, layer)
    backward = _implementation(x).batch_norm_act_bwd
    return backward(grad, x, statistics, weight, bias, saved, has_residual, training, act, negative_slope, dropping)


@_batch_norm_act_backward.register_fake
def _batch_norm_act_backward_fake(
    grad: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Tensor | None,
    has_residual: bool,
    training: bool,
    act: str,
    negative_slope: float,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    indices: Tensor | None = None,
    dropout_p: float = 0.0,
    layer: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    stores = has_residual and (act != "identity" or seed is not None)
    grad_residual = torch.empty_like(x, memory_format=torch.channels_last) if stores else x.new_empty(0)
    return dx, *empty_parameter_gradients(statistics, weight), grad_residual


def empty_parameter_gradients(statistics: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the gradients of weight and bias look like: [C], or [0] where there is no weight."""
    if weight is None:
        return statistics.new_empty(0), statistics.new_empty(0)
    return weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, statistics, weight, bias, residual, *settings = inputs
    ctx.training, ctx.act, ctx.negative_slope, seed, step, indices, *ctx.dropping = settings
    ctx.has_residual = residual is not None
    saved = None
    if residual is not None and ctx.act != "identity":
        saved = output if ctx.act == "relu" else residual
    ctx.save_for_backward(x, statistics, weight, bias, saved, seed, step, indices)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, statistics, weight, bias, saved, seed, step, indices = ctx.saved_tensors
    settings = (ctx.has_residual, ctx.training, ctx.act, ctx.negative_slope)
    dx, d_weight, d_bias, d_residual = torch.ops.cifarfast.batch_norm_act_backward(
        grad, x, statistics, weight, bias, saved, *settings, seed, step, indices, *ctx.dropping
    )
    if weight is None:
        d_weight = d_bias = None
    if not ctx.has_residual:
        d_residual = None
    elif ctx.act == "identity" and seed is None:
        d_residual = grad
    return dx, None, d_weight, d_bias, d_residual, *(None,) * 8


def double_backward(ctx: Any, *grads: Tensor) -> None:
    """A second derivative, asked for: an error, where autograd would otherwise take it for zero."""
    raise RuntimeError("batch norm ops have no second derivative; CIFARFAST_BACKEND=torch has one on a CPU")


_batch_norm_act.register_autograd(_backward, setup_context=_setup_context)
_batch_norm_act_backward.register_autograd(double_backward)
