"""What a report needs of each run folder, checked, and of the data set they share."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint, newest_checkpoint
from ..data import Splits, load_dataset
from ..errors import UserError
from ..recipe import Recipe, differences, load_recipe, recipe_names
from ..run import RunFolder
from ..scores import PredictionScores, check_predictions, score_predictions
from .curve_reader import Reading, read_curves

NEEDED = ("recipe", "arch", "dataset", "official", "seed", "epochs", "test_accuracy_percent")


@dataclass
class LoadedRun:
    """A finished run, read and scored.

    Attributes:
        reported_percent: accuracy that the recipe's source reports, None unless the run is of that recipe and data set.
        changed: settings that differ from the recipe's.
        metrics, timing: rows of the two tables, empty where the run has none.
        checkpoint: the newest that verifies, or None.
        problems: lines about what is missing or damaged without making the run unusable.
    """

    name: str
    folder: RunFolder
    recipe: Recipe
    result: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, float]]
    timing: list[dict[str, float]]
    logits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    scores: PredictionScores
    reading: Reading | None
    checkpoint: Checkpoint | None
    reported_percent: float | None = None
    changed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def data_name(self) -> str:
        """The data set's name, with a mark when the files are not the official ones."""
        return data_name(self.result)


def data_name(result: dict[str, Any]) -> str:
    """The data set of a result, with a mark when the files are not the official ones."""
    return str(result["dataset"]) + ("" if result["official"] else " (not official)")


def load_run(path: str | Path) -> LoadedRun:
    """Read one finished run.

    Raises:
        UserError: not a run folder, not finished, damaged, or written by a version this one cannot read.
    """
    folder = RunFolder(path)
    recipe = folder.read_config()
    result = folder.read_result()
    missing = [key for key in NEEDED if key not in result] if isinstance(result, dict) else list(NEEDED)
    if missing:
        raise UserError(f"{folder.path}/result.json lacks {', '.join(missing)}: was it written by another version?")
    logits, labels = folder.read_predictions()
    try:
        check_predictions(logits, labels)
    except UserError as error:
        raise UserError(f"{folder.path}/predictions.npz: {error}") from None
    problems: list[str] = []
    checkpoint = _checkpoint(folder, problems)
    classes = tuple(checkpoint.state["classes"]) if checkpoint else tuple(map(str, range(logits.shape[1])))
    if len(classes) != logits.shape[1]:
        raise UserError(
            f"{folder.path}: predictions.npz has {logits.shape[1]} classes, the checkpoint {len(classes)}: "
            "its files are not of one run"
        )
    metrics = _rows(folder, "metrics.csv", problems)
    run = LoadedRun(
        name=folder.path.resolve().name,
        folder=folder,
        recipe=recipe,
        result=result,
        environment=folder.read_environment() if (folder.path / "environment.json").exists() else {},
        metrics=metrics,
        timing=_rows(folder, "timing.csv", problems),
        logits=logits,
        labels=labels,
        classes=classes,
        scores=score_predictions(logits, labels, classes),
        reading=read_curves(metrics, len(classes), recipe) if metrics else None,
        checkpoint=checkpoint,
        problems=problems,
    )
    _compare_with_recipe(run)
    return run


def load_runs(paths: Sequence[str | Path]) -> tuple[list[LoadedRun], list[str]]:
    """Read runs that can be compared: all on the data of the first that is readable.

    Returns the runs and a line for each that was left out.
    """
    runs: list[LoadedRun] = []
    problems: list[str] = []
    for path in dict.fromkeys(map(str, paths)):
        try:
            run = load_run(path)
            if runs:
                _check_comparable(runs[0], run)
        except UserError as error:
            problems.append(" ".join(str(error).split()))
            continue
        runs.append(run)
    _tell_apart(runs)
    return runs, problems


def load_data(runs: Sequence[LoadedRun], data_dir: str | Path | None = None) -> tuple[Splits | None, str]:
    """The data set the runs share, for pictures; None and the reason where it is not there or is another one."""
    run = runs[0]
    recipe = run.recipe
    try:
        splits = load_dataset(
            recipe.dataset,
            data_dir=data_dir or recipe.data_dir,
            download=False,
            val_split=recipe.val_split,
            image_size=recipe.image_size,
            seed=recipe.seed,
        )
    except UserError as error:
        return None, str(error)
    if run.result.get("fingerprint") not in (None, splits.fingerprint):
        return None, f"the {recipe.dataset} found there is not the data of these runs"
    if not np.array_equal(splits.test.labels.numpy(), run.labels):
        return None, f"the test labels of the {recipe.dataset} found there are not those of predictions.npz"
    if not any(other.checkpoint for other in runs):
        for other in runs:
            other.classes = splits.test.classes
            other.scores = score_predictions(other.logits, other.labels, other.classes)
    return splits, ""


def _checkpoint(folder: RunFolder, problems: list[str]) -> Checkpoint | None:
    try:
        found = newest_checkpoint(folder.checkpoints)
    except UserError as error:
        problems.append(str(error))
        return None
    if found is None:
        problems.append(f"{folder.path} has no checkpoint")
        return None
    problems += found[2]
    return found[1] if isinstance(found[1].state.get("classes"), list) else None


def _rows(folder: RunFolder, name: str, problems: list[str]) -> list[dict[str, float]]:
    if not (folder.path / name).exists():
        problems.append(f"{folder.path} has no {name}")
        return []
    try:
        return folder.read_metrics() if name == "metrics.csv" else folder.read_timing()
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder.path / name} cannot be read: {error}") from None


def _check_comparable(first: LoadedRun, run: LoadedRun) -> None:
    ours, theirs = run.logits.shape[1], first.logits.shape[1]
    if ours != theirs:
        raise UserError(f"{run.folder.path} has {ours} classes, {first.folder.path} has {theirs}: left out")
    same = run.result.get("fingerprint") == first.result.get("fingerprint") and np.array_equal(run.labels, first.labels)
    if not same:
        raise UserError(
            f"{run.folder.path} is on other data ({run.data_name}) than {first.folder.path} "
            f"({first.data_name}): left out"
        )


def _compare_with_recipe(run: LoadedRun) -> None:
    if run.recipe.name not in recipe_names():
        return
    recipe, about = load_recipe(run.recipe.name)
    if recipe.dataset == run.recipe.dataset:
        run.reported_percent = about.reported_accuracy_percent
    ignored = ("device:", "precision:", "seed:")
    run.changed = [
        line
        for line in differences(run.recipe, recipe.resolved("cuda" if run.recipe.device == "cuda" else "cpu"))
        if not line.startswith(ignored)
    ]


def _tell_apart(runs: list[LoadedRun]) -> None:
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder.path)


def warn(lines: Sequence[str]) -> None:
    """Print lines to stderr as the program's own."""
    for line in lines:
        print(f"cifarfast: {line}", file=sys.stderr)
