"""Which implementation runs an op: ``cuda`` (compiled C++), ``triton`` or ``torch``.

The first of these that the op has and the machine can run is chosen. ``CIFARFAST_BACKEND`` forces one of them for every
op; ``CIFARFAST_BACKEND=triton`` with ``TRITON_INTERPRET=1`` sends CPU tensors through Triton's interpreter.
``CIFARFAST_DEBUG=1`` adds checks of tensor contents on the GPU, which wait for the device.

The environment is read when an op runs, so there is nothing to reset. It is read in the op's device implementation and
in eager code, never in a function while ``torch.compile`` traces it.
"""

import importlib
import importlib.util
import os
from dataclasses import dataclass
from functools import cache

import torch

BACKENDS = ("cuda", "triton", "torch")
BACKEND_VARIABLE = "CIFARFAST_BACKEND"
DEBUG_VARIABLE = "CIFARFAST_DEBUG"

_registered: dict[str, tuple[str, ...]] = {}
_packages: dict[str, str] = {}


@dataclass(frozen=True)
class Choice:
    """The backend that runs an op, why in a few words, and whether the user forced it."""

    backend: str
    reason: str
    forced: bool = False


def register(op: str, *backends: str, package: str) -> None:
    """Make an op known by name with the backends it has and the package that has its implementations and its spec.

    ``torch`` is required: it runs everywhere.
    """
    unknown = set(backends) - set(BACKENDS)
    assert not unknown, f"{op}: {unknown} not in {BACKENDS}"
    assert "torch" in backends, f"{op}: every op has a torch implementation"
    _registered[op] = tuple(name for name in BACKENDS if name in backends)
    _packages[op] = package
    _choose.cache_clear()


def registered() -> dict[str, tuple[str, ...]]:
    """Every op's name and the backends it has, in order of preference."""
    return dict(_registered)


def package(op: str) -> str:
    """The package of an op: where its implementations and its spec are."""
    return _packages[op]


def choose(op: str, device: torch.device) -> Choice:
    """Return the backend that runs ``op`` on tensors of ``device``, and why.

    Raises:
        KeyError: no such op.
        ValueError: ``CIFARFAST_BACKEND`` is unknown, is not a backend of this op, or cannot run on this device.
    """
    return _choose(op, device, os.environ.get(BACKEND_VARIABLE, ""), os.environ.get("TRITON_INTERPRET", ""))


def explain() -> list[tuple[str, Choice]]:
    """Every registered op with its choice on this machine: for the GPU where there is one, else for the CPU."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return [(op, choose(op, device)) for op in sorted(_registered)]


def debug_checks() -> bool:
    """Whether ops may wait for the GPU to check the contents of tensors (``CIFARFAST_DEBUG=1``)."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


@cache
def _choose(op: str, device: torch.device, forced: str, interpret: str) -> Choice:
    if op not in _registered:
        raise KeyError(f"no op {op!r}; known: {', '.join(sorted(_registered))}")
    interpreted = interpret.lower() in ("1", "true", "on", "yes", "y")
    if not forced:
        return _preferred(op, device)
    if forced not in BACKENDS:
        raise ValueError(f"{BACKEND_VARIABLE}={forced!r} is not a backend; allowed: {', '.join(BACKENDS)}")
    if forced not in _registered[op]:
        raise ValueError(
            f"{BACKEND_VARIABLE}={forced!r}: {op} has no such backend; allowed: {', '.join(_registered[op])}"
        )
    unsupported_reason = _unsupported_reason(forced, device, interpreted)
    if unsupported_reason:
        raise ValueError(f"{BACKEND_VARIABLE}={forced!r} cannot run {op} on {device}: {unsupported_reason}")
    suffix = " in the interpreter (TRITON_INTERPRET)" if forced == "triton" and interpreted else ""
    return Choice(forced, f"forced by {BACKEND_VARIABLE}{suffix}", forced=True)


def _preferred(op: str, device: torch.device) -> Choice:
    if device.type != "cuda":
        return Choice("torch", f"tensors on {device.type}")
    reasons: list[str] = []
    for name in _registered[op]:
        unsupported_reason = _unsupported_reason(name, device, interpreted=False)
        if unsupported_reason is None:
            return Choice(name, "; ".join(reasons) if reasons else f"first choice on {device.type}")
        reasons.append(f"no {name}: {unsupported_reason}")
    raise AssertionError("the torch backend has no unsupported_reason")


def _unsupported_reason(backend: str, device: torch.device, interpreted: bool) -> str | None:
    """Why a backend cannot run on this device; None when it can."""
    if backend == "torch":
        return None
    if backend == "triton" and not triton_importable():
        return "triton cannot be imported"
    if backend == "triton" and interpreted:
        return None
    if device.type != "cuda":
        hint = "; TRITON_INTERPRET=1 runs Triton kernels on the CPU" if backend == "triton" else ""
        return f"needs a CUDA device{hint}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"needs compute capability 8.0 or later, this GPU has {major}.{minor}"
    if backend == "cuda" and not extension_importable():
        return "the compiled extension (cifarfast._C) is not built"
    return None


@cache
def triton_importable() -> bool:
    """Whether triton can be imported; asked only where it would run, as importing it takes time."""
    try:
        importlib.import_module("triton")
    except ImportError:
        return False
    return True


@cache
def extension_importable() -> bool:
    """Whether the compiled extension ``_C``, which lies beside this package, can be found."""
    parent = __package__.rpartition(".")[0] if __package__ else ""
    return bool(parent) and importlib.util.find_spec(f"{parent}._C") is not None
