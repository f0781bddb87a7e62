"""cifarfast: CIFAR-style image classifiers to a given accuracy in the least wall-clock time on one GPU.

::

    import cifarfast

    run = cifarfast.train("b01_lenet", epochs=5, data_dir="data")    # a Run: run.result, run.metrics, run.predictions
    model = cifarfast.load(run)                                      # an nn.Module with its preprocessing
    probabilities = model.predict(images)

Nothing is imported before it is used: torch loads with the first of these names.
"""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .api import Run, load, train
    from .errors import UserError
    from .recipes.recipe import Recipe

# OpenMP's threads spin while they wait, unless told otherwise before torch loads it. On a machine whose cores are
# shared that makes small networks ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# In a checkout kernels/ lies beside this folder; an installed package has it inside. Appending the checkout's root
# makes `cifarfast.kernels` importable without an install (`python -m cifarfast.train` in a fresh clone).
_root = Path(__file__).resolve().parent.parent
if (_root / "csrc").is_dir() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))
del _root, Path, os

__all__ = ["Recipe", "Run", "UserError", "__version__", "load", "train"]

_HOMES = {"Recipe": "recipes.recipe", "Run": "api", "UserError": "errors", "load": "api", "train": "api"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
