"""``dropout``: elements set to 0 at random; the torch op, its autograd and the function.

Which elements is drawn inside the kernel from counters, forward and again in backward, so that nothing is saved and
nothing waits for the device. Bytes moved: x read and the result written, each way.
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
from .draws import Dropping

_OP = "dropout"

backend.register(_OP, "triton", "torch", package=__package__)


def dropout(
    x: Tensor,
    p: float = 0.5,
    *,
    training: bool = True,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Dropout: ``y = x / (1 − p)`` with probability ``1 − p``, else 0; x itself in evaluation.

    The gradient is scaled and zeroed as x is.

    Args:
        x: [N, C, …], fp32, bf16, fp16 or fp64; no dimension is empty.
        p: in [0, 1], used to 16 bits.
        training: drop, instead of returning x.
        seed: [] int64 on x's device, the generator's key. None takes one from torch's generator of that device.
        step: [] int64 on that device, the counter that makes one training step differ from the next; None is 0.
            Change it in place between steps, not between a forward and its backward.
        layer: in [0, 2²⁴); layers that share a seed need different ones.
        indices: [N] int64 on that device: which samples these are, in the data set; None is 0 … N − 1.

    Returns:
        [N, C, …] in x's dtype and, of dense tensors, layout; computed in fp32 (fp64 for fp64), rounded once.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit.

    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", JMLR 15, 2014. The generator is Philox4x32-10; ``draws.py`` has the counters.
    """
    check_strided("x", x)
    if x.dim() < 2 or prod(x.shape) == 0:
        raise ValueError(f"x must be [N, C, …] with no empty dimension, got {list(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    check_dropping("p", p, x, seed, step, layer, indices)
    if not training or p == 0:
        return x
    return torch.ops.cifarfast.dropout(x, drawing_seed(x, p, seed), step, indices, float(p), layer)


def drawing_seed(x: Tensor, p: float, seed: Tensor | None) -> Tensor | None:
    """The seed to draw with: None where nothing is dropped, one from torch's generator where none is given."""
    if p == 0:
        return None
    if seed is not None:
        return seed
    return torch.randint(2**62, (), dtype=torch.int64, device=x.device)


def check_dropping(
    name: str, p: float, x: Tensor, seed: Tensor | None, step: Tensor | None, layer: int, indices: Tensor | None
) -> None:
    """Raise a ValueError for a setting of the draws that does not fit x; ``name`` is p's."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {p}")
    check_counters("x", x, seed, step, layer, indices)


def _implementation(x: Tensor) -> ModuleType:
    """The module with ``dropout_fwd`` for x."""
    if x.dtype == torch.float64 or backend.choose(_OP, x.device).backend == "torch":
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::dropout", mutates_args=())
def _dropout(x: Tensor, seed: Tensor, step: Tensor | None, indices: Tensor | None, p: float, layer: int) -> Tensor:
    return _implementation(x).dropout_fwd(x, Dropping(seed, step, indices, p, layer), _layout(x))


@_dropout.register_fake
def _dropout_fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    """The layout of the result."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, seed, step, indices, *ctx.settings = inputs
    ctx.save_for_backward(seed, step, indices)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The op is linear in x: the gradient is the op of the gradient."""
    return torch.ops.cifarfast.dropout(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 5


_dropout.register_autograd(_backward, setup_context=_setup_context)
