"""The programs in examples/ and the notebook run, and reach what their text says."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import nbclient
import nbformat
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
    assert load("timm_model").main([]) < 1e-4


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(ROOT / "examples" / "first_run.ipynb", as_version=4)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "epoch 4" in "".join(output.get("text", "") for output in outputs)
