"""The worked examples of CONTRIBUTING.md, run as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks

TITLES = ("Add a model", "Add a data set", "Add an op", "Add a logger")


def section(title: str) -> list[Block]:
    """The code blocks under a heading."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    return [block for block in blocks(ROOT / "CONTRIBUTING.md") if block.code in parts[title]]


def run(folder: Path, command: list[str], **variables: str) -> str:
    """Run Python there and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def write_files(folder: Path, found: list[Block]) -> list[str]:
    """Write the files that blocks are; return their names."""
    names = []
    for block in found:
        if name := block.argument("file"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)
            names.append(name)
        elif name := block.argument("line"):
            with (folder / name).open("a") as file:
                file.write(block.code)
            names.append(name)
    return names


@pytest.mark.slow
def test_model_data_set_and_logger(tmp_path: Path) -> None:
    program = []
    for title in TITLES:
        if title != "Add an op":
            write_files(tmp_path, section(title))
            program += [block.code for block in section(title) if not block.comment]
    run(tmp_path, ["-c", "\n".join(program)])


def copy_checkout(target: Path) -> None:
    """What the op's tests need of the checkout."""
    skip = shutil.ignore_patterns("__pycache__", "*.so", "results")
    for name in ("cifarfast", "kernels", "csrc", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", target)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_op_passes_its_generated_tests(tmp_path: Path, backend: str) -> None:
    copy_checkout(tmp_path)
    written = write_files(tmp_path, section("Add an op"))
    assert len(written) <= 5
    variables = {"PYTHONPATH": str(tmp_path), "CIFARFAST_NATIVE": "0"}
    if backend == "triton":
        variables["TRITON_INTERPRET"] = "1"
    tests = ["tests/kernels/test_op_specs.py", "-k", f"softcap and not inductor and {backend}"]
    printed = run(tmp_path, ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], **variables)
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) >= 10
    assert "failed" not in printed
    where = "import cifarfast.kernels as k; print(k.__file__)"
    assert str(tmp_path) in run(tmp_path, ["-c", where], PYTHONPATH=str(tmp_path))
