"""Run folders with made-up predictions, and reports of them for all tests."""

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifarfast.data import load_dataset
from cifarfast.recipes.build import build_model
from cifarfast.recipes.recipe import Recipe, parse_recipe
from cifarfast.runs.checkpoint import Checkpoint, save_checkpoint
from cifarfast.runs.run_folder import RunFolder

EPOCHS = 12
MakeRun = Callable[..., RunFolder]


def make_run(path: Path, *, dataset: str, seed: int = 0, quality: float = 3.0, **settings: Any) -> RunFolder:
    """A finished run that was never trained: random weights, predictions the better the higher ``quality``."""
    text = f'dataset = "{dataset}"\narch = "lenet"\nepochs = {EPOCHS}\nseed = {seed}\n'
    recipe = dataclasses.replace(parse_recipe(text, where="test", name=path.name)[0].resolved("cpu"), **settings)
    splits = load_dataset(recipe.dataset, seed=recipe.seed, val_split=recipe.val_split)
    draws, labels, classes = np.random.default_rng(seed), splits.test.labels.numpy(), splits.test.num_classes
    logits = draws.normal(size=(len(labels), classes)).astype(np.float32) * 1.5
    favoured = np.where(np.arange(len(labels)) % 97 == 5, (labels + 1) % classes, labels)  # some labels look wrong
    logits[np.arange(len(labels)), favoured] += quality
    run = RunFolder(path)
    with run.writing(resume=False):
        run.write_config(recipe)
        run.write_environment({"cifarfast": "0", "packages": {"torch": "2"}, "gpu": None, "argv": ["<train> & more"]})
        epochs = range(1, EPOCHS + 1)
        rows = [
            {
                "epoch": epoch,
                "lr": 0.1 * (1 - epoch / EPOCHS),
                "train_loss": 2.3 * 0.7**epoch,
                "train_accuracy_percent": 100 - 60 * 0.7**epoch,
                "test_loss": 1 + 0.02 * (epoch - 6) ** 2,
                "test_accuracy_percent": 60 + epoch + seed,
            }
            for epoch in epochs
        ]
        run.write_metrics(rows)
        timing = {"images": 2000, "train_seconds": 2.0 + seed, "images_per_second": 1000.0, "evaluation_seconds": 0.5}
        run.write_timing([{"epoch": epoch} | timing for epoch in epochs])
        run.write_predictions(logits, labels)
        accuracy = 100 * float((logits.argmax(1) == labels).mean())
        result = {"recipe": recipe.name, "arch": recipe.arch, "dataset": dataset, "seed": seed, "epochs": EPOCHS}
        result |= {"official": splits.official, "fingerprint": splits.fingerprint, "images_per_second": 1000.0}
        result |= {"test_accuracy_percent": accuracy, "best_test_accuracy_percent": accuracy + 1, "best_epoch": 9}
        result |= {"train_seconds": 24.0, "parameters": 62006, "macs": 651720}
        run.write_result(result)
        _write_checkpoint(run, recipe, splits)
    return run


def _write_checkpoint(run: RunFolder, recipe: Recipe, splits: Any) -> None:
    test = splits.test
    progress = {"epoch": EPOCHS, "step_in_epoch": 0, "epoch_seconds": 0.0, "epochs_without_gain": 0}
    progress |= {"rows": run.read_metrics(), "timing": run.read_timing(), "nonfinite": []}
    progress |= {"best_val_loss": math.inf, "best_val_epoch": 0, "finished": True}
    state = {
        "recipe": dataclasses.asdict(recipe),
        "preprocessing": {"mean": [0.5] * test.in_channels, "std": [0.25] * test.in_channels},
        "classes": test.classes,
        "image_size": test.image_size,
        "in_channels": test.in_channels,
        "fingerprint": splits.fingerprint,
    }
    schedule = {"factor": 1.0, "best_loss": math.inf, "bad_epochs": 0}
    state |= {"progress": progress, "running": [0.0, 0.0, 0.0], "schedule": schedule, "scaler": {}}
    tensors = {"model": build_model(recipe, test).state_dict(), "optimizer": {}}
    save_checkpoint(run.checkpoints, 1, Checkpoint(tensors, json.loads(json.dumps(state))))


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A report of some runs, its text and the processor seconds that it took."""

    runs: list[RunFolder]
    classes: int
    path: Path
    text: str
    seconds: float


def render(folder: Path, count: int, classes: int, test: int) -> Rendered:
    """A report of made-up runs with different augmentations."""
    from cifarfast.report.page import write_report

    data = f"synthetic:classes={classes},train=500,test={test}"
    settings: list[dict[str, Any]] = [{}, {"crop_padding": 0, "flip": "none"}, {"mixup_alpha": 1.0}, {}, {"cutout": 8}]
    runs = [
        make_run(folder / f"run-{i}", dataset=data, seed=i, quality=2.5 + i / 2, **settings[i]) for i in range(count)
    ]
    started = time.process_time()
    written = write_report([run.path for run in runs], out=folder / "report.html")
    seconds = time.process_time() - started
    assert written.problems == []
    assert written.notes == []
    torch.manual_seed(0)
    return Rendered(runs, classes, written.path, written.path.read_text(encoding="utf-8"), seconds)


@pytest.fixture(scope="session")
def report_of_five(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """A report as large as one of CIFAR-10."""
    return render(tmp_path_factory.mktemp("five"), 5, 10, 10_000)


@pytest.fixture(scope="session", params=["two", pytest.param("five", marks=pytest.mark.slow)])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """A small report, and a large one."""
    if request.param == "five":
        return request.getfixturevalue("report_of_five")
    return render(tmp_path_factory.mktemp("two"), 2, 4, 120)


def rewrite_in_checkpoint(step: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint, and its checksum in the manifest."""
    (step / name).write_bytes(data)
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(data).hexdigest()
    (step / "manifest.json").write_text(json.dumps(manifest))


def predict(run: RunFolder, logits: np.ndarray, labels: np.ndarray) -> None:
    """Give a run other predictions, and the result that goes with them."""
    result = run.read_result()
    run.write_predictions(logits, labels)
    run.write_result(result | {"test_accuracy_percent": 100 * float((logits.argmax(1) == labels).mean())})


def without(run: RunFolder, key: str) -> None:
    """A result as another version of the package would write it."""
    run.write_result({name: value for name, value in run.read_result().items() if name != key})


def copied(run: RunFolder, path: Path) -> RunFolder:
    """A copy of a run that may be damaged."""
    shutil.copytree(run.path, path)
    return RunFolder(path)


def section(page: str, name: str) -> str:
    """A section of a report, by its id."""
    start = page.index(f'<section id="{name}">')
    return page[start : page.index("</section>", start)]


def leave_figures_undrawn(patch: pytest.MonkeyPatch) -> None:
    """Drawing and t-SNE take most of a small report's time."""
    for module in ("curve_figures", "features", "prediction_figures"):
        patch.setattr(f"cifarfast.report.{module}.to_svg", lambda figure, description: "<svg></svg>")
    patch.setattr("cifarfast.report.features.ITERATIONS", 250)  # the fewest that scikit-learn takes
