"""What a report needs of each run folder, checked, and of the data set they share."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Splits
from ..data.official import data_name
from ..ensembling import EnsembleRecord, ensemble_recipe_names, is_ensemble, load_ensemble_recipe, read_record
from ..errors import UserError
from ..inference.scores import PredictionScores, score_predictions
from ..recipes.build import load_recipe_data
from ..recipes.recipe import Recipe, differences, load_recipe, recipe_names, validate
from ..runs.checkpoint import Checkpoint, newest_checkpoint
from ..runs.run_folder import RunFolder
from .curve_reader import Reading, read_curves


@dataclass
class LoadedRun:
    """A finished run, read and scored.

    Attributes:
        reported_percent: accuracy that the recipe's source reports, None unless the run is of that recipe and data set.
        reported_words: what the source reports where it gives no exact accuracy.
        changed: settings that differ from the recipe's.
        metrics, timing: rows of the two tables, empty where the run has none.
        checkpoint: the newest that verifies, or None.
        ensemble: what it combines, where the run is an ensemble; ``recipe`` then only says which data it is on.
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
    ensemble: EnsembleRecord | None = None
    reported_percent: float | None = None
    reported_words: str = ""
    changed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def optimistic(self) -> str:
        """What to say of its accuracy where it was fitted on the test set, else an empty string."""
        return str(self.result.get("optimistic", ""))

    @property
    def has_class_names(self) -> bool:
        """Whether the folder itself says what the classes are called."""
        return self.checkpoint is not None or self.ensemble is not None

    @property
    def data_name(self) -> str:
        """The data set's name, with a mark when the files are not the official ones."""
        return data_name(self.result)


def load_run(path: str | Path) -> LoadedRun:
    """Read one finished run.

    Raises:
        UserError: not a run folder, not finished, damaged, or written by a version this one cannot read.
    """
    folder = RunFolder(path)
    ensemble = read_record(folder) if is_ensemble(folder) else None
    recipe, result = (ensemble.data, ensemble.result) if ensemble else folder.read_finished()
    logits, labels = folder.read_predictions()
    problems: list[str] = []
    checkpoint = None if ensemble else _checkpoint(folder, problems)
    classes = ensemble.classes if ensemble else tuple(map(str, range(logits.shape[1])))
    if checkpoint:
        theirs = validate(checkpoint.state["recipe"], str(folder.checkpoints))
        problems += [
            f"{folder.path}: config.toml is not that of its checkpoint: {x}" for x in differences(recipe, theirs)
        ]
        classes = tuple(checkpoint.state["classes"])
    if len(classes) != logits.shape[1]:
        raise UserError(
            f"{folder.path}: predictions.npz has {logits.shape[1]} classes, its "
            f"{'result.json' if ensemble else 'checkpoint'} {len(classes)}: its files are not of one run"
        )
    metrics = _rows(folder, "metrics.csv", problems, needed=ensemble is None)
    run = LoadedRun(
        name=folder.name,
        folder=folder,
        recipe=recipe,
        result=result,
        environment=folder.read_environment() if (folder.path / "environment.json").exists() else {},
        metrics=metrics,
        timing=_rows(folder, "timing.csv", problems, needed=ensemble is None),
        logits=logits,
        labels=labels,
        classes=classes,
        scores=score_predictions(logits, labels, classes),
        reading=read_curves(metrics, len(classes), recipe) if metrics and not ensemble else None,
        checkpoint=checkpoint,
        ensemble=ensemble,
        problems=problems,
    )
    if ensemble:
        _compare_with_ensemble_recipe(run, ensemble)
    else:
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
        unlimited = dataclasses.replace(recipe, limit_train=None)
        splits = load_recipe_data(unlimited, data_dir=data_dir, download=False)
    except UserError as error:
        return None, str(error)
    if run.result.get("fingerprint") not in (None, splits.fingerprint):
        return None, f"the {recipe.dataset} found there is not the data of these runs"
    if not np.array_equal(splits.test.labels.numpy(), run.labels):
        return None, f"the test labels of the {recipe.dataset} found there are not those of predictions.npz"
    for other in runs:
        if not other.has_class_names:
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
    return found[1]


def _rows(folder: RunFolder, name: str, problems: list[str], *, needed: bool) -> list[dict[str, float]]:
    if not (folder.path / name).exists():
        if needed:
            problems.append(f"{folder.path} has no {name}")
        return []
    return folder.read_metrics() if name == "metrics.csv" else folder.read_timing()


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
        run.reported_words = about.reported if about.reported_accuracy_percent is None else ""
    ignored = ("device:", "precision:", "seed:")
    run.changed = [
        line
        for line in differences(run.recipe, recipe.resolved("cuda" if run.recipe.device == "cuda" else "cpu"))
        if not line.startswith(ignored)
    ]


def _compare_with_ensemble_recipe(run: LoadedRun, record: EnsembleRecord) -> None:
    if record.recipe.name not in ensemble_recipe_names():
        return
    recipe = load_ensemble_recipe(record.recipe.name)
    ours, theirs = dataclasses.asdict(record.recipe.settings), dataclasses.asdict(recipe.settings)
    members = [str(entry.get("recipe")) for entry in record.members]
    if members == list(recipe.members) and load_recipe(members[0])[0].dataset == run.result["dataset"]:
        run.reported_percent = recipe.about.reported_accuracy_percent
    if members != list(recipe.members):
        run.changed.append(f"members: {', '.join(members)} ≠ {', '.join(recipe.members)}")
    run.changed += [
        f"{key}: {ours[key]!r} ≠ {theirs[key]!r}" for key in ours if ours[key] != theirs[key] and key != "seed"
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
