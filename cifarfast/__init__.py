"""cifarfast: CIFAR-style image classifiers to a given accuracy in the least wall-clock time on one GPU."""

import os
from pathlib import Path

from ._version import __version__

# OpenMP's threads spin while they wait, unless told otherwise before torch loads it. On a machine whose cores are
# shared that makes small networks ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# In a checkout kernels/ lies beside this folder; an installed package has it inside. Appending the checkout's root
# makes `cifarfast.kernels` importable without an install (`python -m cifarfast.train` in a fresh clone).
_root = Path(__file__).resolve().parent.parent
if (_root / "csrc").is_dir() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))
del _root, Path, os

__all__ = ["__version__"]
