"""``shakedrop``: a residual sum with a randomly scaled branch; the torch op, its autograd and the function.

The coefficients are drawn inside the kernels from counters, so nothing is saved for the backward but the counters, and
nothing waits for the device.
"""

from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import backend
from ..layout import check_strided
from ..randomness import check_counters
from . import torch_impl
from .draws import Scaling, check_probability_and_levels

_OP = "shakedrop"

backend.register(_OP, "triton", "torch", package=__package__)


def shakedrop(
    shortcut: Tensor,
    branch: Tensor,
    keep_probability: float,
    *,
    training: bool = True,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
    level: str = "image",
    keep_level: str = "image",
) -> Tensor:
    """ShakeDrop: a residual sum whose branch is scaled at random, differently forward and backward.

    With b ~ Bernoulli(p), α ~ U[−1, 1) and β ~ U[0, 1)::

        forward   y = shortcut + (b + α − b·α) · branch
        backward  grad_shortcut = grad_y,   grad_branch = (b + β − b·β) · grad_y

    In evaluation ``y = shortcut + p · branch``, the expectation, with its own gradient.

    Args:
        shortcut: [N, C, …], like ``branch``.
        branch: [N, C, …], fp32, bf16, fp16 or fp64; no dimension is empty. A channels_last branch gives a
            channels_last result.
        keep_probability: p in [0, 1], used to 24 bits; see ``linear_keep_probability``.
        training: draw, instead of the expectation.
        seed: [] int64 on the branch's device, the generator's key. None takes one from torch's generator of that
            device.
        step: [] int64 on that device, the counter that makes one training step differ from the next; None is 0.
            Change it in place between steps, not between a forward and its backward.
        layer: in [0, 2²⁴); layers that share a seed need different ones.
        indices: [N] int64 on that device: which samples these are, in the data set; None is 0 … N − 1.
        level: what shares one α and one β: ``batch``, ``image``, ``channel`` (of one image) or ``pixel`` (every element
            has its own).
        keep_level: what shares one b: ``batch`` or ``image``.

    Returns:
        [N, C, …] in the branch's dtype, computed in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit.

    Yamada, Iwamura, Akiba, Kise, "ShakeDrop Regularization for Deep Residual Learning", IEEE Access 7, 2019. The
    generator is Philox4x32-10; ``draws.py`` has the counters.
    """
    _check_branch(shortcut, branch)
    check_scaling("branch", branch, keep_probability, seed, step, layer, indices, level, keep_level)
    seed = drawing_seed(branch, keep_probability, training, seed)
    return torch.ops.cifarfast.shakedrop(
        shortcut, branch, seed, step, indices, float(keep_probability), layer, level, keep_level
    )


def drawing_seed(branch: Tensor, keep_probability: float, training: bool, seed: Tensor | None) -> Tensor | None:
    """The seed to draw with: None where nothing is drawn, one from torch's generator where none is given."""
    if not training or keep_probability == 1:
        return None
    if seed is None:
        return torch.randint(2**62, (), dtype=torch.int64, device=branch.device)
    return seed


def _implementation(branch: Tensor) -> ModuleType:
    """The module with ``shakedrop_fwd`` and ``shakedrop_bwd`` for this branch."""
    if branch.dtype == torch.float64 or backend.choose(_OP, branch.device).backend == "torch":
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


def _layout(branch: Tensor) -> torch.memory_format:
    """The layout of the result."""
    last = branch.dim() == 4 and branch.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not branch.is_contiguous() else torch.contiguous_format


@torch.library.custom_op("cifarfast::shakedrop", mutates_args=())
def _shakedrop(
    shortcut: Tensor,
    branch: Tensor,
    seed: Tensor | None,
    step: Tensor | None,
    indices: Tensor | None,
    keep_probability: float,
    layer: int,
    level: str,
    keep_level: str,
) -> Tensor:
    scaling = Scaling(seed, step, indices, keep_probability, layer, level, keep_level)
    return _implementation(branch).shakedrop_fwd(shortcut, branch, scaling, _layout(branch))


@_shakedrop.register_fake
def _shakedrop_fake(shortcut: Tensor, branch: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(branch, memory_format=_layout(branch))


@torch.library.custom_op("cifarfast::shakedrop_backward", mutates_args=())
def _shakedrop_backward(
    grad: Tensor,
    seed: Tensor | None,
    step: Tensor | None,
    indices: Tensor | None,
    keep_probability: float,
    layer: int,
    level: str,
    keep_level: str,
) -> Tensor:
    scaling = Scaling(seed, step, indices, keep_probability, layer, level, keep_level)
    return _implementation(grad).shakedrop_bwd(grad, scaling, _layout(grad))


@_shakedrop_backward.register_fake
def _shakedrop_backward_fake(grad: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(grad, memory_format=_layout(grad))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, seed, step, indices, *settings = inputs
    ctx.save_for_backward(seed, step, indices)
    ctx.settings = settings


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    branch_grad = None
    if ctx.needs_input_grad[1]:
        branch_grad = torch.ops.cifarfast.shakedrop_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return grad, branch_grad, *(None,) * 7


def _setup_linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, seed, step, indices, *settings = inputs
    ctx.save_for_backward(seed, step, indices)
    ctx.settings = settings


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The backward multiplies by ``b + β − b·β``, and so does its own."""
    return torch.ops.cifarfast.shakedrop_backward(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 7


_shakedrop.register_autograd(_backward, setup_context=_setup_context)
_shakedrop_backward.register_autograd(_linear_backward, setup_context=_setup_linear_context)


def _check_branch(shortcut: Tensor, branch: Tensor) -> None:
    check_strided("branch", branch)
    check_strided("shortcut", shortcut)
    if branch.dim() < 2 or prod(branch.shape) == 0:
        raise ValueError(f"branch must be [N, C, …] with no empty dimension, got {list(branch.shape)}")
    if not branch.is_floating_point():
        raise ValueError(f"branch must be floating point, got {branch.dtype}")
    for what in ("shape", "dtype", "device"):
        ours, theirs = getattr(shortcut, what), getattr(branch, what)
        if ours != theirs:
            raise ValueError(f"shortcut must have the branch's {what} {theirs}, got {ours}")


def check_scaling(
    name: str,
    branch: Tensor,
    keep_probability: float,
    seed: Tensor | None,
    step: Tensor | None,
    layer: int,
    indices: Tensor | None,
    level: str,
    keep_level: str,
) -> None:
    """Raise a ValueError for a setting of the coefficients that does not fit the branch, whose name is ``name``."""
    check_probability_and_levels(keep_probability, level, keep_level)
    check_counters(name, branch, seed, step, layer, indices)
