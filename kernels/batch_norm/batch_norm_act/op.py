"""``batch_norm_act``: batch norm, residual and activation; the torch op, its gradient and the function.

The statistics are an op of their own (``statistics.py``), whose running statistics are updated; this op takes them, and
has the gradient of the whole: in training through the statistics too, in eval not.

Memory that the backward keeps: x, [3, C] of statistics, and with a residual

* identity: nothing more, since the residual's gradient is the incoming one;
* relu: y, which the next op keeps anyway; ``y > 0`` is the mask;
* any other activation: the residual, for the pre-activation cannot be had from a rounded y.

Bytes moved, in units of x: forward in training 3 (read x twice, write y; the second read hits the L2 cache where x
fits), in eval 2, with a residual one more. Backward 5 (read x and grad twice, write dx); with a residual and an
activation 7 (the first pass reads grad, x and what was saved and writes the residual's gradient; the second reads that
and x and writes dx). With the gradient of x's other reader one more, where a sum of its own moves 3. Dropout adds no
bytes but those of a residual's gradient, 1 for identity: its mask is drawn again wherever it is needed.
"""

from typing import Any

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...dropout.draws import Dropping
from ...library import Gradients, operator, runs_plain_torch
from ..arguments import check_batch_norm, check_residual, check_statistics
from ..norm import Norm
from ..state import BatchNormState
from .reference import batch_norm_act_reference
from .statistics import input_statistics

_OP = "batch_norm_act"


@names_misfits
def batch_norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    statistics: Tensor | None = None,
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
    return_input: bool = False,
) -> Any:
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
        statistics: [3, C] of x, from the op that made x with ``next_norm`` (fp32, fp64 for fp64 x); only in training.
            The running statistics are then left alone, as that op has updated them. They are trusted, and x's gradient
            goes through them as if they had been computed here. Where they are joined from parts of x, the mean costs
            up to ``3 |mean| · 2⁻²⁴ / std`` of accuracy. Plain torch computes them again.
        num_batches_tracked: [] int64, incremented in training.
        training: whether the statistics are x's own.
        momentum: the new batch's share of the running statistics; None for ``1 / num_batches_tracked`` (all batches'
            mean).
        eps: added to the variance.
        act: identity, relu, leaky_relu, silu, gelu (exact), elu, selu, sigmoid, tanh or softsign.
        negative_slope: of leaky_relu.
        dropout_p: in [0, 1], the share of elements to drop, used to 16 bits; whatever ``training`` is, so 0 in eval.
        seed, step, layer, indices: of the draws, see ``dropout``; used only with ``dropout_p``.
        return_input: return x too, for whatever reads x beside the batch norm: the fork at the start of a
            pre-activation block. Then both gradients of x are added in one pass, ``dx = dx_returned + BN′(dy)``, in
            fp32 and rounded once.

    Returns:
        [N, C, H, W] in x's dtype, channels_last (plain torch on a CPU: x's layout). Statistics, pre-activation and sums
        are fp32, rounded once, in a fixed order. Gradients go to x, weight, bias and residual. With ``return_input`` a
        tuple: x, which shares its memory (on a GPU channels_last, copied if it was not) and must not be modified in
        place, and that.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit; an empty batch or a single value per channel in
            training. The message begins with the argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Source: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015. Variances by Welford, "Note on a method for calculating corrected sums of squares and products",
    Technometrics 1962, on values shifted by each channel's first. He, Zhang, Ren, Sun, "Identity Mappings in Deep
    Residual Networks", ECCV 2016 (the fork).
    """
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    check_batch_norm(x, state, weight, bias, training, act, negative_slope)
    check_statistics(statistics, x, training)
    if residual is not None:
        check_residual(residual, x)
    dropping = Dropping(seed, step, indices, dropout_p, layer).checked(x, "dropout_p").seeded(x)
    if runs_plain_torch(_OP, x):
        settings: dict[str, Any] = {"training": training, "act": act, "negative_slope": negative_slope}
        settings |= {"weight": weight, "bias": bias, "residual": residual, "statistics": statistics}
        settings |= {"dropout_p": dropout_p, "seed": dropping.seed, "step": step, "layer": layer, "indices": indices}
        return batch_norm_act_reference(x, return_input=return_input, **state.arguments(), **settings)
    x = x.contiguous(memory_format=torch.channels_last)
    norm = Norm(input_statistics(x, state, training, statistics), weight, bias, training, act, negative_slope)
    return (forward.returning_input if return_input else forward)(x, norm, residual, dropping)


@operator(_OP)
def forward(x: Tensor, norm: Norm, residual: Tensor | None, dropping: Dropping) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@operator("batch_norm_act_backward")
def backward(
    grad: Tensor,
    x: Tensor,
    norm: Norm,
    saved: Tensor | None,
    has_residual: bool,
    dropping: Dropping,
    other: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    d_residual = torch.empty_like(dx) if has_residual and _is_stored(norm, dropping) else x.new_empty(0)
    return dx, *norm.empty_gradients(), d_residual


def _is_stored(norm: Norm, dropping: Dropping) -> bool:
    """Whether the gradient of a residual is another than the incoming one."""
    return norm.act != "identity" or dropping.seed is not None


def _saves(outputs: tuple[Tensor], x: Tensor, norm: Norm, residual: Tensor | None, dropping: Dropping) -> Any:
    saved = None
    if residual is not None and norm.act != "identity":
        saved = outputs[0] if norm.act == "relu" else residual
    return x, norm, saved, residual is not None, dropping


@forward.backward(saves=_saves)
def _gradients(
    grad: Tensor,
    x: Tensor,
    norm: Norm,
    saved: Tensor | None,
    has_residual: bool,
    dropping: Dropping,
    *,
    other: Tensor | None = None,
) -> Gradients:
    dx, d_weight, d_bias, d_residual = backward(grad, x, norm, saved, has_residual, dropping, other)
    d_residual = d_residual if _is_stored(norm, dropping) else grad
    return {"x": dx, "weight": d_weight, "bias": d_bias, "residual": d_residual}
