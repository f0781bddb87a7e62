"""A plugin for tests on a GPU, ``pytest -p bench.pytest_gpu``: what one test breaks or holds up is lost to no other.

* A failure is printed with its traceback when it happens, not at an end that may never come.
* After each test the GPU is waited for, so that an error of a kernel belongs to the test that launched it. After some
  errors ("illegal memory access") nothing works in the process any more; it ends. pytest-xdist starts another one;
  without it the exit code is ``START_AGAIN``, and the same command with ``--done FILE`` goes on with the next test.
* With ``--widest-first`` any beginning of the tests is about as many different things as possible.
"""

import os
import sys
from collections import Counter
from collections.abc import Generator, Hashable, Sequence
from pathlib import Path

import pytest

START_AGAIN = 77
# the tests of the trainer and of its parts in whole before those of single ops
FIRST = ("test_step", "test_fused_kernels", "test_augment_cuda")
FAILED_BEFORE = pytest.StashKey[set[str]]()
"""Tests that failed in an earlier process of this command (``--done``)."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--widest-first", action="store_true", help="run what differs most from what has run")
    parser.addoption(
        "--done", type=Path, metavar="FILE", help="leave out the tests that this file names, and name those that end"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAILED_BEFORE] = set()
    config.pluginmanager.register(Survival(config), "survival")


def wait_for_gpu() -> None:
    """Wait for all that this process has given the GPU to do.

    Raises:
        RuntimeError: something of it went wrong.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def context_is_lost() -> bool:
    """Whether this process can do nothing any more on the GPU."""
    try:
        wait_for_gpu()
    except RuntimeError:
        return True
    return False


class Survival:
    """What the plugin does in one process."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.done: Path | None = config.getoption("--done")
        self.total = 0
        self.ended: set[str] = set()
        self.failed: set[str] = set()

    # which tests

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.config.getoption("--widest-first"):
            items[:] = widest_first(items)
        if self.done is not None and self.done.is_file():
            before = [line.partition(" ") for line in self.done.read_text(encoding="utf-8").splitlines()]
            self.config.stash[FAILED_BEFORE] = {name for outcome, _, name in before if outcome == "failed"}
            names = {name for _, _, name in before}
            self.config.hook.pytest_deselected(items=[item for item in items if item.nodeid in names])
            items[:] = [item for item in items if item.nodeid not in names]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.total = len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self.total = len(ids)

    # each test

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        yield
        wait_for_gpu()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        result = yield
        if self.done is not None:
            with self.done.open("a", encoding="utf-8") as file:
                print("failed" if item.nodeid in self.failed else "ended", item.nodeid, file=file)
        if context_is_lost():
            if hasattr(self.config, "workerinput"):
                # before xdist hears that the test has ended: it takes the test that was running for the culprit
                os._exit(1)
            pytest.exit(f"the GPU's context was lost in {item.nodeid}", START_AGAIN)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self.ended.add(report.nodeid)
        if not report.failed:
            return
        self.failed.add(report.nodeid)
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:  # xdist's workers have none
            terminal.write_line("")
            terminal.write_sep("_", f"{report.nodeid} ({report.when})")
            terminal.write_line(report.longreprtext)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(f"{len(self.ended)} of {self.total} tests ended")


def widest_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """First the modules in ``FIRST``, then of each test function and op one case, then another one of each, and so on.

    Then come the tests of an op's plain torch implementation, and last those that are marked ``slow``.
    """
    seen: Counter[Hashable] = Counter()
    ranked = []
    for position, item in enumerate(items):
        module = item.nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")
        if module in FIRST:
            ranked.append(((0, FIRST.index(module), position), item))
            continue
        params = getattr(item, "callspec", None)
        values = params.params if params else {}
        plain = values.get("backend_name") == "torch"
        rank = 3 if item.get_closest_marker("slow") else 2 if plain else 1
        group = (module, getattr(item, "originalname", item.name), getattr(values.get("spec"), "name", ""), plain)
        ranked.append(((rank, seen[group], position), item))
        seen[group] += 1
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]
