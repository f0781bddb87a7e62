"""What one test breaks on a GPU is lost to no other: the plugin, with a GPU that is only said to break."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu_tools import read_junit
from bench.parts import Part, run_part
from bench.pytest_gpu import START_AGAIN

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
import bench.pytest_gpu as plugin
broken = []
plugin.context_is_lost = lambda: bool(broken)
"""
TESTS = """
import pytest
from conftest import broken

@pytest.mark.parametrize("number", range(6))
def test_number(number):
    if number == 2:
        broken.append(number)
        raise RuntimeError("an illegal memory access")
    assert number != 4, "four is wrong"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def command(*options: str) -> list[str]:
    quiet = ["-q", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", "-p", "bench.pytest_gpu", *quiet, *options]


# other plugins, hypothesis above all, take longer to import than these tests to run
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run_in(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*options), cwd=folder, env=os.environ | ENVIRONMENT, capture_output=True, text=True)


def test_the_rest_is_done_by_another_process(folder: Path) -> None:
    todo = command(f"--done={folder / 'done'}")
    part = Part("tests", "", 1, lambda: todo, start_again=START_AGAIN)
    ran = run_part(part, 60.0, folder / "log", ENVIRONMENT, folder)
    assert ran.outcome == "failed"
    assert "RuntimeError: an illegal memory access" in ran.log
    assert "AssertionError: four is wrong" in ran.log
    # each of them once
    lines = (folder / "done").read_text().splitlines()
    outcomes = {2: "failed", 4: "failed"}
    assert lines == [f"{outcomes.get(n, 'ended')} test_it.py::test_number[{n}]" for n in range(6)]
    assert "3 of 3 tests ended" in ran.log


def test_what_failed_before_is_known(folder: Path) -> None:
    (folder / "done").write_text("failed test_it.py::test_number[2]\nended test_it.py::test_number[3]\n")
    (folder / "test_it.py").write_text(
        "import pytest\n"
        "from bench.pytest_gpu import FAILED_BEFORE\n"
        "@pytest.mark.parametrize('number', [2, 3, 5])\n"
        "def test_number(number, request):\n"
        "    assert request.config.stash[FAILED_BEFORE] == {'test_it.py::test_number[2]'}\n"
    )
    done = run_in(folder, "--done=done")
    assert "1 passed, 2 deselected" in done.stdout, done.stdout
    assert done.returncode == 0


def test_a_broken_process_of_many_is_replaced(folder: Path) -> None:
    pytest.importorskip("xdist")
    done = run_in(folder, "-p", "xdist", "-n", "2", "--dist", "load", "--maxschedchunk", "1", "--junitxml=tests.xml")
    assert done.returncode == 1
    assert "an illegal memory access" in done.stdout
    assert "crashed while running 'test_it.py::test_number[2]'" in done.stdout
    # a traceback comes when its test fails, and the tests of the broken process are done by others
    assert done.stdout.index("four is wrong") < done.stdout.index("short test summary")
    assert "4 passed" in done.stdout
    assert read_junit(folder / "tests.xml")[1] == ["test_it::test_number[2]", "test_it::test_number[4]"]


def test_the_widest_beginning(folder: Path) -> None:
    (folder / "test_step.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    (folder / "test_other.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('number', [1, 2])\ndef test_c(number): pass\n"
        "@pytest.mark.parametrize('backend_name', ['torch', 'triton'])\ndef test_d(backend_name): pass\n"
        "@pytest.mark.slow\ndef test_slow(): pass\n"
        "def test_e(): pass\n"
    )
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes long\n")
    (folder / "test_it.py").unlink()
    done = run_in(folder, "--widest-first", "--collect-only")
    order = [line.partition("::test_")[2] for line in done.stdout.splitlines() if "::" in line]
    assert order == ["a", "b", "c[1]", "d[triton]", "e", "c[2]", "d[torch]", "slow"]
