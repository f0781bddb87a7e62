"""ShakeDrop as a module."""

from typing import Any

from torch import Tensor, nn

from ..randomness import Drawing
from .draws import PURPOSE, check_probability_and_levels
from .op import shakedrop


class RandomScale(Drawing):
    """What the modules with ShakeDrop's coefficients have in common: p, the levels, and where draws come from."""

    purpose = PURPOSE
    training: bool

    def __init__(self, *args: Any, keep_probability: float, level: str, keep_level: str, **settings: Any) -> None:
        check_probability_and_levels(keep_probability, level, keep_level)
        super().__init__(*args, **settings)
        self.keep_probability = keep_probability
        self.level = level
        self.keep_level = keep_level

    def _scale_arguments(self) -> dict[str, Any]:
        return {
            "keep_probability": self.keep_probability,
            "seed": self.seed,
            "step": self.step,
            "layer": self.layer,
            "indices": self.indices if self.training else None,  # those of a training step's batch
            "level": self.level,
            "keep_level": self.keep_level,
        }

    def _scale_repr(self) -> str:
        return f"keep_probability={self.keep_probability:g}, level={self.level!r}, keep_level={self.keep_level!r}"


class ShakeDrop(RandomScale, nn.Module):
    """``shakedrop`` as a module: takes ``(shortcut, branch)``. It has no state.

    Args:
        keep_probability: p; ``linear_keep_probability`` gives it for a block of a network.
        level, keep_level: see ``shakedrop``.

    Raises:
        ValueError: a setting that is not allowed; see ``shakedrop`` for the call.
    """

    def __init__(self, keep_probability: float, *, level: str = "image", keep_level: str = "image") -> None:
        super().__init__(keep_probability=keep_probability, level=level, keep_level=keep_level)

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return shakedrop(shortcut, branch, training=self.training, **self._scale_arguments())

    def extra_repr(self) -> str:
        return self._scale_repr()
