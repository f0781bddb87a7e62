"""cifarfast: CIFAR-style image classifiers to a given accuracy in the least wall-clock time on one GPU."""

from pathlib import Path

from ._version import __version__

# In a checkout kernels/ lies beside this folder; an installed package has it inside. Appending the checkout's root
# makes `cifarfast.kernels` importable without an install (`python -m cifarfast.train` in a fresh clone).
_root = Path(__file__).resolve().parent.parent
if (_root / "csrc").is_dir() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))
del _root, Path

__all__ = ["__version__"]
