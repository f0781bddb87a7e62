"""Checks the tests: plants mistakes, one at a time, and sees that the tests of the room fail.

    python -m tests.mutate [--room ROOM …] [--only NAME …] [--jobs N]

The mistakes are in ``mutations.toml``. Each is planted in a copy of the checkout, and the tests it names run there.
They must pass without the mistake, and one of them must fail with it. A mistake whose tests all pass is a hole in the
tests; a mistake that breaks an import is itself wrong. The exit status is 1 unless every mistake is caught.
"""

import argparse
import contextlib
import importlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen

ROOT = Path(__file__).parents[1]
COPIED = ("cifarfast", "kernels", "csrc", "tests", "pyproject.toml")
# loaded once, before a process is forked for each run of tests; nothing that reads this program's environment variables
LOADED = ("pytest", "numpy", "hypothesis", "sklearn.metrics", "torch", "safetensors.torch", "pydantic")
SECONDS = 300
# a failing test of these says that the mistake is not a mistake but a program that cannot run
UNRUNNABLE = ("SyntaxError", "ImportError", "ModuleNotFoundError", "NameError", "UnboundLocalError")


@dataclass(frozen=True)
class Mutation:
    """A mistake: the text ``old``, which ``file`` has once, becomes ``new``; ``tests`` are the arguments of pytest."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    environment: str = ""
    """``NAME=value``, separated by blanks."""

    @property
    def room(self) -> str:
        """The folder of the mistake's tests."""
        return Path(self.tests.split()[0].partition("::")[0]).parts[1]


MUTATIONS = [
    Mutation(**entry) for entry in tomllib.loads(Path(__file__).with_name("mutations.toml").read_text())["mutation"]
]


@dataclass(frozen=True)
class Outcome:
    """What became of the tests: their exit status, the first that failed, and its error."""

    status: int
    failed: str
    error: str
    seconds: float
    """Of processor time."""


class Checkout:
    """A copy of the checkout, in which tests run with and without a mistake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._clean: dict[tuple[str, str], Outcome] = {}
        ignored = shutil.ignore_patterns("__pycache__", ".*", "*.so")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder / name)

    def judge(self, mutation: Mutation) -> tuple[bool, str, float]:
        """Whether a test catches the mistake, a line that says which or why not, and the processor time."""
        command = (mutation.tests, mutation.environment)
        seconds = 0.0
        if command not in self._clean:
            self._clean[command] = self._run(mutation)
            seconds = self._clean[command].seconds
        clean = self._clean[command]
        if clean.status != 0:
            return False, f"WITHOUT IT: exit status {clean.status}, {clean.failed} {clean.error}", seconds
        try:
            with self._planted(mutation):
                outcome = self._run(mutation)
        except ValueError as error:
            return False, f"NOT PLANTED: {error}", seconds
        seconds += outcome.seconds
        if outcome.status == 0:
            return False, "SURVIVED", seconds
        if outcome.status != 1 or outcome.error.startswith(UNRUNNABLE):
            return False, f"NO MISTAKE: exit status {outcome.status}, {outcome.failed} {outcome.error}", seconds
        return True, f"{outcome.failed}: {outcome.error}", seconds

    @contextlib.contextmanager
    def _planted(self, mutation: Mutation) -> Iterator[None]:
        path = self.folder / mutation.file
        text, times = path.read_text(), path.stat()
        if text.count(mutation.old) != 1:
            raise ValueError(f"{mutation.file} has {mutation.old!r} {text.count(mutation.old)} times")
        path.write_text(text.replace(mutation.old, mutation.new))
        # compiled files are told by time and size: a time that no version had before
        os.utime(path, (times.st_atime, time.time() + 1e6 + 10 * len(mutation.name)))
        try:
            yield
        finally:
            path.write_text(text)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _run(self, mutation: Mutation) -> Outcome:
        """Run the mutation's tests in a forked process."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _test(self.folder, mutation, writer)  # does not return
        os.close(writer)
        with os.fdopen(reader) as pipe:
            failed, _, error = pipe.read().partition("\n")
        _, status, usage = os.wait4(child, 0)
        return Outcome(os.waitstatus_to_exitcode(status), failed, error, usage.ru_utime + usage.ru_stime)


def _test(folder: Path, mutation: Mutation, report: int) -> None:
    """In a process of its own: run the tests, write the first failure to ``report`` and end."""
    status = 70
    try:
        signal.alarm(SECONDS)
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.environ.update(setting.split("=", 1) for setting in mutation.environment.split())
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        first = _FirstFailure()
        import pytest

        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(mutation.tests)], [first]))
        if status == 0 and not first.passed:
            status = int(pytest.ExitCode.NO_TESTS_COLLECTED)  # all were skipped
        imported = sys.modules["cifarfast"].__file__
        assert imported == str(folder / "cifarfast" / "__init__.py"), imported
        os.write(report, f"{first.test}\n{first.error}".encode())
    except BaseException:
        os.write(report, f"\n{traceback.format_exc()}".encode())
        status = 70
    finally:
        os._exit(status)


class _FirstFailure:
    """A plugin of pytest that keeps the first failure's test and error, and counts the tests that pass."""

    test = error = ""
    passed = 0

    def pytest_runtest_logreport(self, report) -> None:
        self.passed += report.when == "call" and report.passed

    def pytest_exception_interact(self, node, call, report) -> None:
        if not self.test:
            self.test = node.nodeid.partition("tests/")[2] or node.nodeid
            self.error = (call.excinfo.exconly().splitlines() or [""])[0][:100]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mistakes and print a table; 1 unless all are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", nargs="+", metavar="ROOM", choices=sorted({m.room for m in MUTATIONS}))
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[m.name for m in MUTATIONS])
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    options = parser.parse_args(arguments)
    chosen = [
        m
        for m in MUTATIONS
        if (not options.room or m.room in options.room) and (not options.only or m.name in options.only)
    ]
    if options.jobs > 1:
        return _side_by_side([m.name for m in chosen], options.jobs)
    for name in LOADED:
        importlib.import_module(name)
    missed, total = [], 0.0
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        checkout = Checkout(Path(folder).resolve())
        for mutation in chosen:
            caught, line, seconds = checkout.judge(mutation)
            missed += [] if caught else [mutation.name]
            total += seconds
            print(f"{mutation.name:<44} {seconds:5.1f} s  {line}", flush=True)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught, {total:.0f} s of processor time", flush=True)
    return int(bool(missed))


def _side_by_side(names: list[str], jobs: int) -> int:
    """Share the mistakes out to ``jobs`` processes of this program."""
    command = [sys.executable, __file__, "--only"]
    with ThreadPoolExecutor(jobs) as pool:
        # in blocks: mistakes with the same tests follow each other, and these are first run without a mistake
        size = -(-len(names) // jobs)
        parts = [names[i : i + size] for i in range(0, len(names), size)]
        processes = [Popen([*command, *part], stdout=PIPE, text=True) for part in parts]
        for output in pool.map(lambda process: process.communicate()[0], processes):
            print(output, end="")
    return int(any(process.returncode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
