"""Options and results of the benchmarks.

Run them with ``pytest bench --benchmark-enable``. ``--save-results`` writes ``bench/results/<device>/<suite>.json``.
"""

import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cifarfast.kernels.tuning import slug

_FOLDER = Path(__file__).parent


ROWS = pytest.StashKey[dict[str, list[dict[str, Any]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--save-results", action="store_true", help="write bench/results/<device>/<suite>.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the rows if asked to, but nothing from a session in which anything failed."""
    if not session.config.getoption("--save-results") or exitstatus != 0:
        return
    for suite, rows in session.config.stash[ROWS].items():
        path = _FOLDER / "results" / slug(device_name()) / f"{suite}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"environment": environment(), "rows": rows}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, dict[str, Any]], None]:
    """``record(name, figures)`` keeps a row of results; its suite is the file's name without ``test_``."""
    rows = request.config.stash[ROWS].setdefault(request.path.stem.removeprefix("test_"), [])
    return lambda name, figures: rows.append({"name": name, **figures})


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one, else the CPU with one thread."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    torch.set_num_threads(1)
    return torch.device("cpu")


def device_name() -> str:
    """The GPU's name, else the CPU's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def cpu_name() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def environment() -> dict[str, Any]:
    """What a number depends on besides the code that was timed: device, versions, commit."""
    try:
        from triton import __version__ as triton_version
    except ImportError:
        triton_version = None
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton_version,
        "python": platform.python_version(),
        "commit": commit(),
    }


def commit() -> str:
    """The checkout's commit, ``+dirty`` if tracked files differ from it; ``unknown`` outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=_FOLDER, capture_output=True, text=True, check=True)
    return result.stdout.strip()
