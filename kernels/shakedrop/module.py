"""ShakeDrop as a module, and where the modules of a model take their random numbers from."""

from typing import Any

from torch import Tensor, nn

from .draws import check_probability_and_levels
from .op import shakedrop


class RandomScale:
    """What the modules with ShakeDrop's coefficients have in common: p, the levels, and where draws come from.

    Until ``share_randomness`` is called each training call takes a seed from torch's generator.
    """

    seed: Tensor | None = None
    step: Tensor | None = None
    indices: Tensor | None = None
    layer: int = 0
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


def share_randomness(model: nn.Module, seed: Tensor, step: Tensor, indices: Tensor | None = None) -> int:
    """Make every ShakeDrop module of a model draw from the same device tensors; return how many there are.

    Numbers their layers 0, 1, … in the model's order. The caller changes ``step``, and ``indices`` where given, in
    place before each training step. A draw then depends on the seed, the step, the layer and the sample's index only,
    so that a run can be resumed or captured in a CUDA graph.

    Args:
        model: call this after it has been moved to its device.
        seed: [] int64.
        step: [] int64.
        indices: [N] int64, the samples' indices in the data set; None numbers them by their place in the batch.
    """
    modules = [module for module in model.modules() if isinstance(module, RandomScale)]
    for layer, module in enumerate(modules):
        module.seed, module.step, module.indices, module.layer = seed, step, indices, layer
    return len(modules)
