"""The two commands of the README, and what CI runs, as a newcomer's machine meets them."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from installs import ROOT, Environment, copy_checkout

SMALL = "ARGS=--recipe quickstart --epochs 1 --limit-train 64 --quiet"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture(autouse=True)
def not_inside_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may themselves be run by make, which tells the makes below it so."""
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "VENV", "LOCK", "DEV_LOCK", "PYTHON", "ARGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "checkout")


def dry_run(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["make", "-n", *arguments], cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout


def write_lock(checkout: Path, setuptools: str) -> None:
    """A lock of one package, which needs no network where the running environment has this version of it."""
    (checkout / "requirements.lock").write_text(f"setuptools=={setuptools} --hash=sha256:{'0' * 64}\n")


@pytest.mark.slow
def test_make_installs_once_and_trains(checkout: Path) -> None:
    environment = Environment.create(checkout / ".venv", CXX="/nonexistent", PIP_NO_INDEX="1")
    write_lock(checkout, version("setuptools"))
    first = environment.run("make", "train", SMALL, cwd=checkout)
    assert "installing into .venv" in first.stdout
    assert "test accuracy" in first.stdout
    assert "next: .venv/bin/python -m cifarfast.report runs/quickstart-digits-seed42\n" in first.stdout
    assert Path(environment.console_script).exists()
    assert (checkout / "runs/quickstart-digits-seed42/result.json").exists()
    again = environment.run("make", SMALL, cwd=checkout)
    assert "pip" not in again.stdout
    assert "runs/quickstart-digits-seed42-2" in again.stdout
    assert dry_run(checkout, "train").splitlines() == [".venv/bin/python -m cifarfast.train --recipe quickstart"]


def test_make_test_starts_from_nothing(checkout: Path) -> None:
    lines = dry_run(checkout, "test", "PYTHON=python3.99").splitlines()
    steps = [
        "python3.99 -m venv .venv",
        "--require-hashes --requirement requirements.lock",
        "--no-deps --no-build-isolation --editable .",
        "--require-hashes --requirement requirements-dev.lock",
        "-m pytest -n auto",
    ]
    found = [next(i for i, line in enumerate(lines) if step in line) for step in steps]
    assert found == sorted(found)
    assert '-m "not slow and not gpu" tests' in lines[found[-1]]


def test_make_installs_what_the_lock_says(checkout: Path) -> None:
    environment = Environment.create(checkout / ".venv", PIP_NO_INDEX="1")
    write_lock(checkout, "0.0.1")
    said = environment.run("make", "train", SMALL, cwd=checkout, fails=True, merge=True).stdout
    assert "No matching distribution found for setuptools==0.0.1" in said
    assert not (checkout / ".venv/.installed").exists()
    assert not Path(environment.console_script).exists()


def test_the_newest_set_has_its_own_environment_and_lock(checkout: Path) -> None:
    text = dry_run(checkout, "test-latest", "PYTHON=python3.99")
    assert "python3.99 -m venv .venv-latest\n" in text
    locks = [line.rpartition(" ")[2] for line in text.splitlines() if "--require-hashes" in line]
    assert locks == ["requirements-latest.lock"] * 2
    assert ".venv-latest/bin/python -m pytest -n auto" in text
    assert ".venv/" not in text


def test_make_lock_writes_every_lock(checkout: Path) -> None:
    """From pyproject.toml, what the build needs, and the constraints; it installs nothing where uv is."""
    uv = checkout / ".venv/bin/uv"
    Environment.create(checkout / ".venv")
    uv.write_text('#!/bin/sh\nshift 2\necho "$* < $(tr "\\n" " ")" >> calls\n')
    uv.chmod(0o755)
    subprocess.run(["make", "lock", "UPGRADE=--upgrade"], cwd=checkout, check=True)
    required = tomllib.loads((checkout / "pyproject.toml").read_text())["build-system"]["requires"]
    calls = (checkout / "calls").read_text().splitlines()
    for call in calls:
        assert "--universal --generate-hashes" in call
        assert "--upgrade pyproject.toml - " in call
        assert call.endswith(f" < {' '.join(required)} ")
    assert [call.partition(" - ")[2].partition(" < ")[0] for call in calls] == [
        "--extra dev --constraint constraints.txt --output-file requirements-dev.lock",
        "--constraint requirements-dev.lock --output-file requirements.lock",
        "--extra dev --constraint constraints-latest.txt --output-file requirements-latest.lock",
    ]
    assert not (checkout / ".venv/.installed").exists()


def test_gpu_check_installs_nothing(checkout: Path) -> None:
    lines = dry_run(checkout, "gpu-check", "CHECK=--only tests", "PYTHON=python3.12").splitlines()
    assert lines == ["python3.12 -m bench.gpu_check --only tests"]


def test_make_says_when_python_is_too_old(checkout: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text(f"#!/bin/sh\nPYTHONPATH={tmp_path} exec '{sys.executable}' \"$@\"\n")
    old.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info, sys.version = (3, 9, 1), '3.9.1'\n")
    done = subprocess.run(["make", "train", f"PYTHON={old}"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"Python 3.11 or later is needed, {old} is 3.9.1" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("failing", [None, "test", "test-latest"])
def test_ci_runs_every_target_and_stops_at_the_first_that_fails(failing: str | None, tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$PWD $*" >> {tmp_path}/calls\n[ "$1" != "{failing}" ]\n')
    make.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI": "true", "HOME": str(tmp_path)}
    done = subprocess.run([ROOT / ".ci/run"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL)
    targets = ["check", "test", "test-slow", "test-latest"]
    run = targets if failing is None else targets[: targets.index(failing) + 1]
    assert (tmp_path / "calls").read_text().splitlines() == [f"{ROOT} {target}" for target in run]
    assert (done.returncode == 0) == (failing is None)
