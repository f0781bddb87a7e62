"""``add_batch_norm_act``: the sum between two pre-activation blocks with the batch norm after it.

In training one pass writes ``s = a + b`` and gathers its statistics, and one reads s and writes y; in eval one does
both. The backward is ``cifarfast::batch_norm_act_backward`` and keeps s and [3, C].

Bytes moved, in units of a: forward in training 5 (read a and b, write s; read s, write y), in eval 4; backward 6 (read
s and the gradient of y twice and that of s, write one gradient for a and b), 5 where nothing else reads s. The sum, the
batch norm and the sum of the gradients apart move 6, 5 and 8.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...dropout.draws import NO_DROPOUT
from ...library import Gradients, operator, runs_plain_torch
from ..arguments import check_batch_norm, check_residual
from ..batch_norm_act.module import BatchNormActBase
from ..batch_norm_act.op import backward
from ..batch_norm_act.statistics import statistics_before
from ..norm import Norm
from ..state import BUFFERS, BatchNormState
from .reference import add_batch_norm_act_reference

_OP = "add_batch_norm_act"


@names_misfits
def add_batch_norm_act(
    a: Tensor,
    b: Tensor,
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
) -> tuple[Tensor, Tensor]:
    """``s = a + b`` and ``y = act(BN(s))``: a block's branch and shortcut, and the batch norm that begins the next.

    s is rounded to a's dtype, and y and the statistics are those of the rounded s. Both gradients of s are added in the
    batch norm's backward, in fp32 and rounded once: ``da = db = ds + BN′(dy)``.

    Args:
        a, b: [N, C, H, W] fp32, bf16, fp16 (fp64: plain torch), one shape and dtype. channels_last is the fast layout;
            on a GPU any other one is copied to it first.
        running_mean, running_var, weight, bias, num_batches_tracked, training, momentum, eps, act, negative_slope: as
            in ``batch_norm_act``.

    Returns:
        s, which must not be modified in place, and y, both like a, channels_last (plain torch on a CPU: torch's
        choice). Gradients go to a, b, weight and bias.

    Raises:
        ValueError: as ``batch_norm_act``; the message begins with the argument's name.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    check_batch_norm(a, state, weight, bias, training, act, negative_slope, name="a")
    check_residual(b, a, "b", "a")
    if runs_plain_torch(_OP, a):
        settings = {**state.arguments(), "training": training, "act": act, "negative_slope": negative_slope}
        return add_batch_norm_act_reference(a, b, weight=weight, bias=bias, **settings)
    statistics, state = statistics_before(a, state, training)
    s, y, _ = forward(a, b, Norm(statistics, weight, bias, training, act, negative_slope), state)
    return s, y


class AddBatchNormAct2d(BatchNormActBase):
    """``s = a + b`` and ``act(BN(s))``; replaces the sum, ``torch.nn.BatchNorm2d`` and the activation after it.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(a, b)`` takes two
    [N, C, H, W] and returns two. See ``add_batch_norm_act`` for dtypes, layouts and errors.
    """

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return add_batch_norm_act(a, b, **self._arguments())


@operator(_OP, mutates=BUFFERS, differentiable=2)
def forward(a: Tensor, b: Tensor, norm: Norm, state: BatchNormState) -> tuple[Tensor, Tensor, Tensor]:
    s, y = (torch.empty_like(a, memory_format=torch.channels_last) for _ in range(2))
    return s, y, norm.statistics.new_empty((3, a.shape[1]) if norm.training else 0)


def _saves(
    outputs: tuple[Tensor, Tensor, Tensor], a: Tensor, b: Tensor, norm: Norm, state: BatchNormState
) -> tuple[Tensor, Norm]:
    s, _, computed = outputs
    return s, replace(norm, statistics=computed) if norm.training else norm


@forward.backward(saves=_saves)
def _gradients(ds: Tensor | None, dy: Tensor | None, s: Tensor, norm: Norm) -> Gradients:
    if dy is None:
        return {"a": ds, "b": ds}
    dx, d_weight, d_bias, _ = backward(dy, s, norm, None, False, NO_DROPOUT, ds)
    return {"a": dx, "b": dx, "weight": d_weight, "bias": d_bias}
