"""Dropout as a module."""

from typing import Any

from torch import Tensor, nn

from ..randomness import Drawing
from .draws import PURPOSE
from .op import dropout


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
