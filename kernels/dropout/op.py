"""``dropout``: elements set to 0 at random; the torch op, its autograd, the function and the module.

Which elements is drawn inside the kernel from counters, forward and again in backward, so that nothing is saved and
nothing waits for the device. Bytes moved: x read and the result written, each way.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import names_misfits
from ..layout import check_batch, output_layout
from ..library import Gradients, operator
from ..randomness import Drawing
from .draws import PURPOSE, Dropping


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
    check_batch("x", x)
    dropping = Dropping(seed, step, indices, p, layer).checked(x)
    if not training or p == 0:
        return x
    return forward(x, dropping.seeded(x))


class Dropout(Drawing, nn.Dropout):
    """A ``torch.nn.Dropout`` that draws as ``share_randomness`` says; until then it takes a seed from torch's
    generator.

    Args:
        p: of dropping an element, used to 16 bits.
        inplace: must be False.

    Raises:
        ValueError: p is not in [0, 1], or ``inplace``; see ``dropout`` for the call.
    """

    purpose = PURPOSE

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if inplace:
            raise ValueError("inplace must be False: the result is a tensor of its own")
        super().__init__(p)

    @property
    def draws(self) -> bool:
        return self.p > 0

    @property
    def drops(self) -> bool:
        """Whether a call drops anything."""
        return self.training and self.draws

    def source(self) -> dict[str, Any]:
        """Where the draws of a training step come from, as ``dropout`` and ``batch_norm_act`` take it."""
        return {"seed": self.seed, "step": self.step, "layer": self.layer, "indices": self.indices}

    def forward(self, input: Tensor) -> Tensor:
        if not self.drops:
            return input
        return dropout(input, self.p, **self.source())

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


@operator("dropout")
def forward(x: Tensor, dropping: Dropping) -> Tensor:
    return torch.empty_like(x, memory_format=output_layout(x))


@forward.backward(saves=lambda _, x, dropping: (dropping,))
def _gradients(grad: Tensor, dropping: Dropping) -> Gradients:
    """The op is linear in x: the gradient is the op of the gradient."""
    return {"x": forward(grad, dropping)}
