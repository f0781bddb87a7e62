"""The environment of a run: versions, device, commit, and the backend of every fused op."""

import contextlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from cifarfast.kernels.backend import explain

from .._version import __version__
from ..errors import UserError
from ..runtime import native_build

PACKAGES = ("torch", "torchvision", "triton", "numpy", "safetensors", "timm")


def collect_environment() -> dict[str, Any]:
    """Versions, processor, GPU, threads, commit, state of csrc and op backends as JSON-able values.

    Nothing is compiled for it.

    Raises:
        UserError: CIFARFAST_BACKEND or CIFARFAST_BUILD_CUDA has a value that is not allowed here.
    """
    return {
        "cifarfast": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu(),
        "native": native_build.describe(),
        "backends": backends(),
        "argv": sys.argv,
    }


def environment_after(before: dict[str, Any], now: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The environment of a run that is resumed, and a line where its bits may not be those of an uninterrupted run.

    Args:
        before: of the part before, as ``environment.json`` has it.
        now: of the part that begins.

    Returns:
        ``now``, with the entry ``earlier``: the environments of the parts before, each once; and the line, or "".
    """
    earlier = list(before.get("earlier", []))
    before = {key: value for key, value in before.items() if key != "earlier"}
    if before != now and before not in earlier:
        earlier.append(before)
    changed = [f"{name}: {was} → {here}" for name, was, here in _decisive(before, now) if was != here]
    line = f"the run goes on elsewhere, and its bits may differ ({'; '.join(changed)})" if changed else ""
    return now | ({"earlier": earlier} if earlier else {}), line


def _decisive(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What floating-point results depend on: names and both values."""

    def values(environment: dict[str, Any]) -> dict[str, Any]:
        names = ("cpu", "threads", "processes")
        packages = environment.get("packages") or {}
        gpu = (environment.get("gpu") or {}).get("name")
        return {name: environment.get(name) for name in names} | {"gpu": gpu, "torch": packages.get("torch")}

    ours, theirs = values(before), values(now)
    return [(name, ours[name], theirs[name]) for name in ours]


def version(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({os.cpu_count()} cores)" if names else platform.processor()


def gpu() -> dict[str, Any] | None:
    """Name, memory and versions of the first GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def backends() -> dict[str, dict[str, str]]:
    """For every op of ``cifarfast.kernels`` which implementation runs here, and why."""
    try:
        return {op: {"backend": choice.backend, "reason": choice.reason} for op, choice in explain()}
    except ValueError as error:
        raise UserError(str(error)) from None


def commit() -> str | None:
    """The checkout's git commit, with ``+changes`` when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """``cpu`` or ``cuda``; for ``auto`` the GPU when there is one.

    Raises:
        UserError: ``cuda`` is wanted and torch sees no GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device auto or cpu")
    return wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


def command(module: str, *, processes: int = 1) -> str:
    """The command line that starts a module of this package from the present folder."""
    if processes > 1:
        return f"torchrun --nproc-per-node={processes} -m cifarfast.{module}"
    python = Path(sys.executable)
    with contextlib.suppress(FileNotFoundError):  # the present folder was removed
        if python.is_relative_to(Path.cwd()):
            return f"{shlex.quote(str(python.relative_to(Path.cwd())))} -m cifarfast.{module}"
    on_path = shutil.which("python")
    same = on_path is not None and Path(on_path) == python
    return f"{'python' if same else shlex.quote(str(python))} -m cifarfast.{module}"
