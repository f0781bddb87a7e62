"""``dropout``: elements set to 0 at random; the torch op, its autograd and the function.

Which elements is drawn inside the kernel from counters, forward and again in backward, so that nothing is saved and
nothing waits for the device. Bytes moved: x read and the result written, each way.
"""

from math import prod

import torch
from torch import Tensor

from ..arguments import names_misfits
from ..layout import check_strided, output_layout
from ..library import Gradients, operator
from .draws import Dropping


@names_misfits
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
    dropping = Dropping(seed, step, indices, p, layer).checked(x)
    if not training or p == 0:
        return x
    return forward(x, dropping.seeded(x))


@operator("dropout")
def forward(x: Tensor, dropping: Dropping) -> Tensor:
    return torch.empty_like(x, memory_format=output_layout(x))


@forward.backward(saves=lambda _, x, dropping: (dropping,))
def _gradients(grad: Tensor, dropping: Dropping) -> Gradients:
    """The op is linear in x: the gradient is the op of the gradient."""
    return {"x": forward(grad, dropping)}
