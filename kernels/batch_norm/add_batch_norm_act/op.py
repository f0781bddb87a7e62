"""``add_batch_norm_act``: the sum between two pre-activation blocks with the batch norm after it.

In training ``cifarfast::add_batch_norm_statistics`` writes ``s = a + b`` and gathers its statistics in the same pass;
it updates the running ones, which it declares as mutated, so it has no autograd. ``BranchPoint`` of
``fork_batch_norm_act`` then has the gradient of the whole. In eval ``cifarfast::add_batch_norm_act`` is one pass, with
autograd of its own. Both backwards are one op, ``cifarfast::fork_batch_norm_act_backward``, and keep s and [3, C].

Bytes moved, in units of a: forward in training 5 (read a and b, write s; read s, write y), in eval 4; backward 6 (read
s and the gradient of y twice and that of s, write one gradient for a and b), 5 where nothing else reads s. The sum, the
batch norm and the sum of the gradients apart move 6, 5 and 8.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import backend
from ..arguments import check_arguments, check_residual, runs_plain_torch, runs_torch
from ..batch_norm_act.op import running_statistics, writable
from ..fork_batch_norm_act.op import BranchPoint, branch_gradients
from . import torch_impl
from .reference import add_batch_norm_act_reference

_OP = "add_batch_norm_act"

backend.register(_OP, "triton", "torch", package=__package__)


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
    settings: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    settings |= {"act": act, "negative_slope": negative_slope}
    check_arguments(a, running_mean, running_var, weight, bias, num_batches_tracked, **settings, name="a")
    check_residual(b, a, "b", "a")
    if runs_plain_torch(_OP, a):
        return add_batch_norm_act_reference(
            a, b, running_mean, running_var, weight, bias, num_batches_tracked=num_batches_tracked, **settings
        )
    slope = float(negative_slope)
    if not training:
        assert running_mean is not None
        assert running_var is not None
        stats = running_statistics(running_mean, running_var, eps)
        return torch.ops.cifarfast.add_batch_norm_act(a, b, stats, weight, bias, act, slope)
    running_mean, running_var, momentum = writable(a, running_mean, running_var, momentum)
    s, stats = torch.ops.cifarfast.add_batch_norm_statistics(
        a.detach(), b.detach(), running_mean, running_var, num_batches_tracked, momentum, float(eps)
    )
    return BranchPoint.apply(a, b, s, stats, weight, bias, True, act, slope)


def _implementation(a: Tensor) -> ModuleType:
    """The module with the statistics and forward functions for ``a``."""
    if runs_torch(_OP, a):
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op(
    "cifarfast::add_batch_norm_statistics", mutates_args=("running_mean", "running_var", "num_batches_tracked")
)
def _add_batch_norm_statistics(
    a: Tensor,
    b: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    compute = _implementation(a).add_batch_norm_statistics
    return compute(a, b, running_mean, running_var, num_batches_tracked, momentum, eps)


@_add_batch_norm_statistics.register_fake
def _add_batch_norm_statistics_fake(
    a: Tensor,
    b: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    return torch.empty_like(a, memory_format=torch.channels_last), a.new_empty(3, a.shape[1], dtype=dtype)


@torch.library.custom_op("cifarfast::add_batch_norm_act", mutates_args=())
def _add_batch_norm_act(
    a: Tensor,
    b: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor]:
    return _implementation(a).add_batch_norm_act_fwd(a, b, statistics, weight, bias, act, negative_slope)


@_add_batch_norm_act.register_fake
def _add_batch_norm_act_fake(
    a: Tensor,
    b: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor]:
    s, y = (torch.empty_like(a, memory_format=torch.channels_last) for _ in range(2))
    return s, y


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, statistics, weight, bias, ctx.act, ctx.negative_slope = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], statistics, weight, bias)


def _backward(ctx: Any, other: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    settings = (False, ctx.act, ctx.negative_slope)  # the statistics are constants
    ds, d_weight, d_bias = branch_gradients(other, grad, *ctx.saved_tensors, *settings)
    return ds, ds, None, d_weight, d_bias, None, None


_add_batch_norm_act.register_autograd(_backward, setup_context=_setup_context)
