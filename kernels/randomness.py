"""Where draws come from: the counters of ops that draw random numbers, and who gives them to the modules of a model."""

from collections import Counter

import torch
from torch import Tensor, nn

from .layout import check_strided

MAX_LAYER = 2**24 - 1


class Drawing:
    """Base of the modules whose draws are a function of (seed; sample index, step, layer).

    Until ``share_randomness`` is called each training call takes a seed from torch's generator.
    """

    purpose: int
    """What the draws are for, the low byte of a counter's third word: modules of different purposes share a key."""
    seed: Tensor | None = None
    step: Tensor | None = None
    indices: Tensor | None = None
    layer: int = 0

    @property
    def draws(self) -> bool:
        """Whether a training call needs random numbers at all."""
        return True


def share_randomness(model: nn.Module, seed: Tensor, step: Tensor, indices: Tensor | None = None) -> int:
    """Make every ShakeDrop and Dropout module of a model draw from the same device tensors; return how many will draw.

    Numbers the layers of each kind 0, 1, … in the model's order. The caller changes ``step``, and ``indices`` where
    given, in place before each training step. A draw then depends on the seed, the step, the layer and the sample's
    index only, so that a run can be resumed, split over processes or captured in a CUDA graph.

    Args:
        model: call this after it has been moved to its device.
        seed: [] int64.
        step: [] int64.
        indices: [N] int64, the samples' indices in the data set; None numbers them by their place in the batch.
    """
    modules = [module for module in model.modules() if isinstance(module, Drawing)]
    layers: Counter[int] = Counter()
    for module in modules:
        module.seed, module.step, module.indices, module.layer = seed, step, indices, layers[module.purpose]
        layers[module.purpose] += 1
    return sum(module.draws for module in modules)


def check_counters(
    name: str, x: Tensor, seed: Tensor | None, step: Tensor | None, layer: int, indices: Tensor | None
) -> None:
    """Raise a ValueError for a counter that does not fit the tensor x [N, …], whose name is ``name``."""
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= MAX_LAYER:
        raise ValueError(f"layer must lie in [0, {MAX_LAYER}] and be an int, got {layer!r}")
    for argument, tensor, shape in (("seed", seed, ()), ("step", step, ()), ("indices", indices, x.shape[:1])):
        if tensor is None:
            continue
        check_strided(argument, tensor)
        if tensor.dtype != torch.int64 or tensor.shape != shape:
            raise ValueError(
                f"{argument} must be int64 {list(shape)} for {name} {list(x.shape)}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
        if tensor.device != x.device:
            raise ValueError(f"{argument} must be on {name}'s device {x.device}, got {tensor.device}")
