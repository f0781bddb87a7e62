"""Run folders made by commit 899f5a2 still evaluate, predict, resume, report and export.

Only the command line and the names of ``import cifarfast`` are used, so these tests hold whatever the package's modules
are called. ``runs_of_899f5a2/README.md`` says how the folders were made.
"""

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import cifarfast

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path(__file__).with_name("runs_of_899f5a2")
EXPECTED = RUNS / "pyramid_expected"
# the instructions that the runs were computed with
ARITHMETIC = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
}


def command(*arguments: str) -> str:
    """What ``python -m cifarfast`` prints."""
    environment = {**os.environ, **ARITHMETIC}
    environment.pop("CIFARFAST_BACKEND", None)
    started = [sys.executable, "-m", "cifarfast", *arguments]
    done = subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(RUNS / "linear", tmp_path / "linear"))


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(RUNS / "pyramid", tmp_path / "pyramid"))


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def tables(path: Path) -> NDArray[np.float64]:
    return np.array([[float(value) for value in row] for row in csv.reader(path.open()) if row[0] != "epoch"])


def same_bits_here() -> bool:
    """Whether this machine and its torch compute what the old run's did, bit for bit."""
    made_with = read_json(RUNS / "pyramid" / "environment.json")["packages"]["torch"]
    return platform.machine() == "x86_64" and torch.__version__.partition("+")[0] == made_with


def test_the_finished_run_evaluates_to_its_result() -> None:
    run = cifarfast.Run(RUNS / "linear")
    scores = run.evaluate(device="cpu").scores
    assert scores.accuracy_percent == run.result["test_accuracy_percent"] == run.predictions.accuracy_percent
    assert scores.loss == pytest.approx(run.result["test_loss"], rel=1e-6)
    assert run.finished
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3, 4, 5, 6]


def test_the_interrupted_run_evaluates_as_it_did() -> None:
    expected = read_json(EXPECTED / "evaluation.json")
    scores = cifarfast.Run(RUNS / "pyramid").evaluate(device="cpu").scores
    assert scores.accuracy_percent == expected["accuracy_percent"]
    assert scores.to_json()["confusion_matrix"] == expected["confusion_matrix"]
    assert scores.loss == pytest.approx(expected["loss"], rel=1e-6)


def test_the_loaded_model_gives_the_stored_logits() -> None:
    """EMA weights, preprocessing and classes come back: the logits of the test set are those of predictions.npz."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    run = cifarfast.Run(RUNS / "linear")
    model = run.load(device="cpu")
    assert tuple(model.classes) == tuple("0123456789")
    # the test images are some of these; their order is the data set's own affair
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    with torch.inference_mode():
        logits = model(model.preprocess(images)).numpy()
    for wanted, label in zip(run.predictions.logits, run.predictions.labels, strict=True):
        nearest = np.abs(logits - wanted).max(axis=1).argmin()
        np.testing.assert_allclose(logits[nearest], wanted, rtol=1e-4, atol=1e-5)
        assert digits.target[nearest] == label


def test_the_interrupted_run_ends_as_if_it_had_not_been(pyramid: Path) -> None:
    assert "resuming from" in command("train", f"--out={pyramid}", "--resume", "--quiet")
    before = (RUNS / "pyramid" / "metrics.csv").read_text()
    after = (pyramid / "metrics.csv").read_text()
    assert after.startswith(before)
    if same_bits_here():
        assert after == (EXPECTED / "metrics.csv").read_text()
        (newest,) = (pyramid / "checkpoints").glob("*-evaluated")
        ours, theirs = (read_json(folder / "manifest.json") for folder in (newest, EXPECTED))
        # the state has the clock's seconds in it
        assert {**ours["sha256"], "state.json": None} == {**theirs["sha256"], "state.json": None}
        assert {**ours, "sha256": None} == {**theirs, "sha256": None}
    np.testing.assert_allclose(tables(pyramid / "metrics.csv"), tables(EXPECTED / "metrics.csv"), rtol=0.05)
    ours, theirs = read_json(pyramid / "result.json"), read_json(EXPECTED / "result.json")
    assert ours.keys() == theirs.keys() | {"train_images", "train_images_in_test"}, "what later versions add"
    exact = {"recipe", "changed_settings", "arch", "dataset", "official", "fingerprint", "seed", "epochs"}
    for key in exact | {"parameters", "macs", "device", "precision"}:
        assert ours[key] == theirs[key], key


def test_the_report_is_written(linear: Path) -> None:
    run = cifarfast.Run(linear)
    page = run.report().read_text()
    assert f"{run.result['test_accuracy_percent']:.2f}" in page
    assert "899f5a2" in page


@pytest.mark.slow
def test_the_model_is_exported(pyramid: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert "checked on 64 test images of digits" in command("export", str(pyramid), f"--out={pyramid / 'model.onnx'}")
    session = onnxruntime.InferenceSession(pyramid / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    model = cifarfast.load(RUNS / "pyramid", device="cpu")
    with torch.inference_mode():
        wanted = model(model.preprocess(images)).numpy()
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-4)
