"""Options and results of the benchmarks.

Run them with ``pytest bench --benchmark-enable``. ``--save-results`` writes ``bench/results/<device>/<suite>.json``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from real_images import real_data  # noqa: F401 - a fixture

from cifarfast.environment import collect_environment
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
        environment = collect_environment()
        environment["argv"] = [Path(argument).name for argument in environment["argv"]]  # no paths of this machine
        device = slug(environment["gpu"]["name"]) if environment["gpu"] else "cpu"
        path = _FOLDER / "results" / device / f"{suite}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"environment": environment, "rows": rows}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, dict[str, Any]], None]:
    """``record(name, figures)`` keeps a row of results; its suite is the file's name without ``test_``."""
    rows = request.config.stash[ROWS].setdefault(request.path.stem.removeprefix("test_"), [])
    return lambda name, figures: rows.append({"name": name, **figures})


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
