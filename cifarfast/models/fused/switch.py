"""From torch's modules to those on fused ops: the class of each module is exchanged, its tensors and name stay."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from .padding import Fused

FusedT = TypeVar("FusedT", bound=type[Fused])

_FUSED: dict[type[nn.Module], type[Fused]] = {}


def fuses(plain: type[nn.Module]) -> Callable[[FusedT], FusedT]:
    """Decorate the class that ``switch`` gives to modules whose class is exactly ``plain``."""

    def decorate(fused: FusedT) -> FusedT:
        _FUSED[plain] = fused
        return fused

    return decorate


def switch(model: nn.Module) -> None:
    """Exchange the class of every module that has a fused one, innermost first."""
    for module in reversed(list(model.modules())):
        fused = _FUSED.get(type(module))
        if fused is not None:
            module.__class__ = fused
            assert isinstance(module, Fused)
            module.adopt()
