"""Options and results of the benchmarks.

Run them with ``pytest bench --benchmark-enable``. ``--save-results`` writes ``bench/results/<device>/<suite>.json``.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from real_images import real_data  # noqa: F401 - a fixture

from bench.measure import Rates, measure_rates
from bench.record import Recorder

RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--save-results",
        action="store_true",
        help="write bench/results/<device>/<suite>.json, if every test passes",
    )
    parser.addoption(
        "--save-each",
        action="store_true",
        help="write that file after every row, whatever happens later, and keep an earlier file's other rows",
    )
    parser.addoption("--airbench", metavar="PATH", help="checkout of cifar10-airbench, whose programs run beside ours")
    parser.addoption("--short", action="store_true", help="fewer cases and runs: minutes instead of an hour")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDER] = Recorder(keep_earlier=config.getoption("--save-each"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the rows if asked to, but nothing from a session in which anything failed."""
    if session.config.getoption("--save-results") and exitstatus == 0:
        recorder = session.config.stash[RECORDER]
        for suite in recorder.rows:
            recorder.write(suite)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, dict[str, Any]], None]:
    """``record(name, figures)`` keeps a row of results; its suite is the file's name without ``test_``."""
    recorder, suite = request.config.stash[RECORDER], request.path.stem.removeprefix("test_")

    def keep(name: str, figures: dict[str, Any]) -> None:
        recorder.add(suite, {"name": name, **figures})
        if request.config.getoption("--save-each"):
            recorder.write(suite)

    return keep


@pytest.fixture(scope="session")
def short(request: pytest.FixtureRequest) -> bool:
    """Whether ``--short`` was given."""
    return bool(request.config.getoption("--short"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture(scope="session")
def rates(device: torch.device) -> Rates:
    """What the device does at best, measured in this session."""
    return measure_rates(device)
