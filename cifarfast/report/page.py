"""The report as one HTML file that needs nothing else."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup

from .._version import __version__
from ..augment import Resize
from ..data import Splits
from ..data.official import is_copy
from ..errors import UserError
from ..inference.checkpoint_model import check_images, checkpoint_augment, checkpoint_model
from ..inference.scores import CALIBRATION_BINS, sample_losses
from ..models import create_model
from ..recipes.recipe import Recipe
from ..runs.storage import disk_errors, write_atomic
from ..runtime.files import user_path
from ..runtime.torch_state import own_torch_state
from .curve_figures import curve_figures
from .ensembles import fit_words, member_rows, method_words
from .features import SAMPLES, Layer, feature_map, model_layers, penultimate_features, sample_count
from .figures import SERIES
from .label_errors import rank_label_errors
from .load import LoadedRun, load_data, load_runs
from .pictures import TILES, augmented_rows, prediction_tiles, random_tiles
from .prediction_figures import THIN_BIN, Curves, best_f1, calibration_figure, class_bars, confusion_figure

_MOST_LAYERS = 400
LEAST_ACCURACY = 70.0
"""Test accuracy in percent below which no likely label errors are listed."""


@dataclass
class Written:
    """What ``write_report`` did: the file, the runs in it, a line for each run left out, remarks on the others."""

    path: Path
    runs: list[LoadedRun]
    problems: list[str]
    notes: list[str] = field(default_factory=list)


@own_torch_state()
def write_report(
    paths: Sequence[str | Path], *, out: str | Path | None = None, data_dir: str | Path | None = None
) -> Written:
    """Write a report on runs as one HTML file, by default ``report.html`` in the first run's folder.

    Runs that cannot be read, or are on other data than the first, are left out. Without the data set there are no
    pictures of samples; without a checkpoint no map of features. Nothing is downloaded.

    Raises:
        UserError: no run is left, or the file cannot be written.
    """
    runs, problems = load_runs(paths)
    if not runs:
        raise UserError("; ".join(problems) or "no run folder was named")
    notes = [problem for run in runs for problem in run.problems]
    data, reason = load_data(runs, data_dir)
    if data is None:
        notes.append(f"no pictures of samples: {reason}")
    else:
        notes += data.notes
    path = user_path(out) if out is not None else runs[0].folder.path / "report.html"
    html = render(runs, data, notes, problems)
    with disk_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, html)
    return Written(path, runs, problems, notes)


def render(runs: list[LoadedRun], data: Splits | None, notes: list[str], problems: Sequence[str] = ()) -> str:
    """The page as text. Remarks that come up on the way are added to ``notes``."""
    loader = jinja2.FunctionLoader(_resource)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    curves = Curves(runs)
    sections: dict[str, Any] = {
        "curves": [Markup(svg) for svg in curve_figures(runs)] if any(run.metrics for run in runs) else [],
        "confusion": [Markup(confusion_figure(run.scores)) for run in runs],
        "bars": Markup(class_bars(runs)),
        "calibration": Markup(calibration_figure(runs)),
        "overall": [Markup(svg) for svg in curves.overall()],
        "panels": [tuple(map(Markup, curves.class_panels(label))) for label in curves.hardest()],
        "thresholds": [_thresholds(run, p) for run, p in zip(runs, curves.probabilities, strict=True)],
        "maps": _feature_maps(runs, data, notes),
        "layers": _structures(runs, notes),
        "settings": [_settings(run) for run in runs],
        "ensembles": [
            (number, method_words(run.ensemble), fit_words(run.ensemble), member_rows(run.ensemble))
            for number, run in enumerate(runs)
            if run.ensemble
        ],
    }
    if data is not None:
        sections |= _pictures(runs, data, curves.probabilities)
    page = environment.get_template("template.html").render(
        runs=runs,
        data=data,
        shared=_shared_images(runs, data),
        training_images=_training_images(runs[0], data),
        notes=notes,
        problems=problems,
        series=SERIES,
        version=__version__,
        duration=_duration,
        is_copy=is_copy,
        bins=CALIBRATION_BINS,
        thin=THIN_BIN,
        least_accuracy=f"{LEAST_ACCURACY:g}",
        css=Markup(_resource("style.css")),
        script=Markup(_resource("script.js")),
        **{"hardest": [], "errors": None, "samples": [], "augmented": [], **sections},
    )
    return page.encode("utf-8", "backslashreplace").decode()  # paths may have bytes that are not UTF-8


def _training_images(run: LoadedRun, data: Splits | None) -> int | None:
    """Images that the run trained on; where it does not say, those of its data set, held out ones included, or None."""
    if (used := run.result.get("train_images")) is not None or data is None:
        return used
    held_out = data.val is not None and data.val.fingerprint == data.train.fingerprint
    return len(data.train) + (len(data.val) if data.val is not None and held_out else 0)


def _shared_images(runs: Sequence[LoadedRun], data: Splits | None) -> list[str]:
    """For each run a line on the training images that are test images too; one line where it is the same for all."""
    lines = []
    for run in runs:
        count, images = (run.result.get(key) for key in ("train_images_in_test", "train_images"))
        if count is None and data is not None:
            count, images = data.train_images_in_test, len(data.train)
        if count is None:
            lines.append("not counted")
        else:
            lines.append(f"{count:,} of {images:,}" if images else f"{count:,}")
    return lines[:1] if len(set(lines)) == 1 else [f"{run.name} {line}" for run, line in zip(runs, lines, strict=True)]


def _resource(name: str) -> str:
    return (resources.files("cifarfast.report") / name).read_text(encoding="utf-8")


def _thresholds(run: LoadedRun, probabilities: np.ndarray) -> list[tuple[float, float] | None]:
    """For every class the highest F1 over all thresholds and its threshold, None where the class has no samples."""
    return [
        best_f1(run.labels == number, probabilities[:, number]) if row.support else None
        for number, row in enumerate(run.scores.per_class)
    ]


def _pictures(runs: Sequence[LoadedRun], data: Splits, probabilities: Sequence[np.ndarray]) -> dict[str, Any]:
    hardest = []
    for run, p in zip(runs, probabilities, strict=True):
        losses = sample_losses(run.logits, run.labels)
        chosen = np.argsort(-losses, kind="stable")[:TILES].tolist()
        hardest.append(prediction_tiles(data.test, p, chosen, [f"loss {losses[i]:.1f}" for i in chosen]))
    return {
        "hardest": hardest,
        "errors": _label_errors(runs, data, probabilities),
        "samples": random_tiles(data.train),
        "augmented": _augmented(runs, data),
    }


def _label_errors(
    runs: Sequence[LoadedRun], data: Splits, probabilities: Sequence[np.ndarray]
) -> tuple[int, list[Any], int] | None:
    """How many likely label errors there are, pictures of the likeliest, by how many runs; None for weak runs."""
    # a run that was fitted on the test set has seen its labels, wrong ones included
    unseen = [p for run, p in zip(runs, probabilities, strict=True) if not run.optimistic]
    mean, labels = np.mean(unseen or probabilities, axis=0), runs[0].labels
    if 100 * (mean.argmax(axis=1) == labels).mean() < LEAST_ACCURACY:
        return None
    ranked = rank_label_errors(mean, labels)
    top = ranked[:TILES].tolist()
    details = [f"label {100 * mean[i, labels[i]]:.1f} %" for i in top]
    return len(ranked), prediction_tiles(data.test, mean, top, details), len(unseen)


def _augmented(runs: Sequence[LoadedRun], data: Splits) -> list[tuple[str, list[Any]]]:
    """Rows of augmented examples, once for runs that augment alike."""
    names: dict[str, list[str]] = {}
    recipes: dict[str, Recipe] = {}
    for run in (run for run in runs if not run.ensemble):
        transforms = [t for t in run.recipe.transforms(run.recipe.epochs) if not isinstance(t, Resize)]
        key = f"{run.recipe.epochs} {run.recipe.augmented_copy} {transforms}" if transforms else ""
        names.setdefault(key, []).append(run.name)
        recipes[key] = dataclasses.replace(run.recipe, precision="fp32")
    return [
        (", ".join(names[key]), augmented_rows(data.train, recipes[key]) if key else []) for key in sorted(names)[::-1]
    ]


def _feature_maps(runs: Sequence[LoadedRun], data: Splits | None, notes: list[str]) -> list[tuple[str, int, Markup]]:
    """For every run that has a checkpoint, where the data are there: its name, the number of images, the map."""
    maps: list[tuple[str, int, Markup]] = []
    if data is None:
        return maps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for run in runs:
        if run.checkpoint is None:
            continue
        try:
            check_images(run.checkpoint, data.test, run.name)
            model, recipe = checkpoint_model(run.checkpoint, device=device, where=run.name)
            count = sample_count(run.result.get("macs", 0), device, len(data.test))
            if count < 5:
                raise UserError(f"{run.name}: too few images for a map of features")
            chosen = np.random.default_rng(0).choice(len(data.test), count, replace=False)
            part = data.test.select(torch.from_numpy(np.sort(chosen))).to(device)
            features, predicted = penultimate_features(
                model,
                part,
                checkpoint_augment(run.checkpoint, dataclasses.replace(recipe, precision="fp32")),
                indices=torch.arange(count, device=device),
                precision="fp32",
            )
            svg = feature_map(features, part.labels.cpu().numpy(), predicted, run.classes)
        except (UserError, ValueError) as error:
            notes.append(f"no map of features of {run.name}: {error}")
            continue
        maps.append((run.name, count, Markup(svg)))
        if count < min(SAMPLES, len(data.test)):
            notes.append(f"the map of features of {run.name} shows {count} images only: its model is slow on a CPU")
    return maps


def _structures(runs: Sequence[LoadedRun], notes: list[str]) -> list[tuple[str, str, list[Layer]]]:
    """The layers of each different model: names of the runs, of the model, and its layers."""
    found: dict[str, tuple[list[str], str, list[Layer]]] = {}
    for run in runs:
        if run.checkpoint is None:
            continue
        state, recipe = run.checkpoint.state, run.recipe
        size = recipe.resize or state["image_size"]
        key = f"{recipe.arch} {size} {recipe.dropout}"
        if key not in found:
            try:
                with torch.device("meta"):
                    model = create_model(
                        recipe.arch,
                        num_classes=len(run.classes),
                        in_channels=state["in_channels"],
                        image_size=size,
                        dropout=recipe.dropout,
                    )
                layers = model_layers(model, state["in_channels"], size)
            except (UserError, RuntimeError, NotImplementedError) as error:
                notes.append(f"no structure of {recipe.arch}: {str(error).splitlines()[0]}")
                continue
            found[key] = ([], recipe.arch, layers[:_MOST_LAYERS])
        found[key][0].append(run.name)
    return [(", ".join(names), arch, layers) for names, arch, layers in found.values()]


def _settings(run: LoadedRun) -> dict[str, list[tuple[str, str]]]:
    """The resolved recipe and the environment as rows of name and value."""
    settings: Any = run.ensemble.recipe.settings if run.ensemble else run.recipe
    recipe = [(key, _plain(value)) for key, value in dataclasses.asdict(settings).items() if value is not None]
    environment: list[tuple[str, str]] = []
    for key, value in run.environment.items():
        if key == "earlier":
            for number, part in enumerate(value, 1):
                about = {name: part.get(name) for name in ("cpu", "threads", "processes", "commit")}
                environment.append((f"earlier part {number}", _plain(about)))
        elif isinstance(value, dict):
            environment += [(f"{key}.{name}", _plain(inner)) for name, inner in value.items() if inner is not None]
        elif value is not None:
            environment.append((key, _plain(value)))
    return {"recipe": recipe, "environment": environment}


def _duration(seconds: float | None) -> str:
    """Seconds as ``12 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items()) or "–"
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value)) or "–"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
