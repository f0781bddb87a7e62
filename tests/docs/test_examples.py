"""The programs in examples/ and the notebook run, and reach what their text says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from pages import ROOT


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_own_loop_learns() -> None:
    assert load("own_loop").main(["--epochs", "5"]) > 90


@pytest.mark.slow
def test_own_model_is_trained_by_the_trainer(tmp_path: Path) -> None:
    run = load("own_model").main(["--epochs", "3", "--out", str(tmp_path / "run")])
    assert run.result["arch"] == "two_branches"
    assert run.result["test_accuracy_percent"] > 40
    assert run.load(device="cpu").classes == tuple("0123456789")


@pytest.mark.slow
def test_timm_model_keeps_its_outputs() -> None:
    pytest.importorskip("timm")
    assert load("timm_model").main([]) < 1e-4
