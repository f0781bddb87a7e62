"""``python -m cifarfast.evaluate RUN``: score a run's newest weights on its test set, or on another data set."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from .augment import View, views
from .checkpoint import Checkpoint, newest_checkpoint
from .classifier import Weights, precision_on
from .classmap import class_map
from .data import Dataset, Splits, load_dataset
from .ensembling import EnsembleRecord, is_ensemble, read_record
from .ensembling.folder import combiner, member_checkpoint
from .environment import pick_device
from .errors import UserError
from .flags import parse_flags, run_main
from .inference import check_images, checkpoint_augment, checkpoint_model
from .recipe import Recipe
from .report.score_table import score_table
from .run import RunFolder
from .scores import PredictionScores, score_predictions
from .views import Predictor


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a run's newest checkpoint on test images: accuracy, loss, per-class scores, calibration, confusion."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, of a training or of an ensemble."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Which weights; auto takes the EMA when the run keeps one."""
    dataset: str | None = None
    """Test images of another data set with the same classes, or another of EMNIST's byclass, bymerge and balanced."""
    tta: Literal["none", "mirror", "mirror_shift", "ten_crop"] = "none"
    """Test-time augmentation: the mean of the logits for each image and its mirrored and shifted versions."""
    tta_shift: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = 1
    """How far mirror_shift and ten_crop move the image."""
    data_dir: str | None = None
    """Folder that holds the data sets; default: as in training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes a GPU when there is one."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 500
    """Images a batch."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True)
class Evaluation:
    """Scores and where they come from."""

    scores: PredictionScores
    about: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return self.about | self.scores.to_json()

    def to_text(self) -> str:
        """Everything as lines and tables."""
        about, scores = self.about, self.scores
        data = about["dataset"] + ("" if about["official"] else " (not the official files)")
        lines = [
            f"{about['source']}: test accuracy {scores.accuracy_percent:.2f} %, top-5 {scores.top5_percent:.2f} %, "
            f"loss {scores.loss:.4f} on {scores.images:,} images of {data}"
        ]
        if about.get("optimistic"):
            lines.append(f"these numbers are {about['optimistic']}")
        if "images_per_second" in about:
            lines.append(
                f"{about['weights']} weights, {about['views']} view{'s' if about['views'] > 1 else ''} an image, "
                f"{about['images_per_second']:,.0f} images/s, {about['milliseconds_a_batch']:.2f} ms a batch of "
                f"{about['batch_size']} on {about['device']} in {about['precision']}"
            )
        return "\n".join([*lines, score_table(scores)])


def evaluate(
    run: RunFolder,
    *,
    weights: Weights = "auto",
    dataset: str | None = None,
    tta: str = "none",
    tta_shift: int = 1,
    data_dir: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 500,
) -> Evaluation:
    """Score a run's newest checkpoint; the settings are those of the command line.

    A run without checkpoints is scored by its ``predictions.npz``, where no setting asks for anything else. An ensemble
    is scored by its members' checkpoints, each with the views asked for, or so where they are not there any more.

    Raises:
        UserError: nothing to score, data that do not fit the model, or a setting that is not allowed.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    settings = _Settings(weights, dataset, tta, views(tta, shift=tta_shift), data_dir, pick_device(device), batch_size)
    return _evaluate_ensemble(run, settings) if is_ensemble(run) else _evaluate_run(run, settings)


@dataclass(frozen=True)
class _Settings:
    """What the command line asks for, checked."""

    weights: Weights
    dataset: str | None
    tta: str
    views: list[View]
    data_dir: str | Path | None
    device: Literal["cpu", "cuda"]
    batch_size: int

    @property
    def plain(self) -> bool:
        """Whether the stored predictions answer what is asked."""
        return (self.weights, self.dataset, self.tta) == ("auto", None, "none")


def _evaluate_run(run: RunFolder, settings: _Settings) -> Evaluation:
    recipe = run.read_config()
    found = newest_checkpoint(run.checkpoints)
    if found is None:
        return _score_stored(run, settings)
    path, checkpoint, problems = found
    for problem in problems:
        print(f"cifarfast: {problem}", file=sys.stderr)
    splits = _load(recipe, settings)
    if settings.dataset is None and splits.fingerprint != checkpoint.state.get("fingerprint"):
        print(f"cifarfast: {recipe.dataset} is not the data that {run.path} was trained on", file=sys.stderr)
    predict, logits = _predict(path, checkpoint, splits.test, settings)
    about = {
        "run": str(run.path),
        "source": str(path),
        "checkpoint": path.name,
        "weights": "EMA" if settings.weights != "model" and "ema" in checkpoint.tensors else "model",
        "precision": predict.precision,
    }
    scores = _score(logits, splits.test, checkpoint.state["classes"])
    return Evaluation(scores, about | _how(splits, settings, [predict]))


def _evaluate_ensemble(run: RunFolder, settings: _Settings) -> Evaluation:
    """From the members' weights; from the stored predictions where a member is gone or was trained anew."""
    record = read_record(run)
    try:
        members = [member_checkpoint(record, entry) for entry in record.members]
    except UserError as error:
        if not settings.plain:
            raise
        print(f"cifarfast: {error}; these are the scores of its predictions.npz", file=sys.stderr)
        return _score_stored(run, settings, record)
    combine = combiner(record)
    splits = _load(record.data, settings)
    if settings.dataset is None and splits.fingerprint != record.result["fingerprint"]:
        print(f"cifarfast: {record.data.dataset} is not the data that {run.path} was made on", file=sys.stderr)
    made = [_predict(path, checkpoint, splits.test, settings) for path, checkpoint in members]
    with torch.inference_mode():
        logits = combine(torch.stack([logits.cpu() for _, logits in made]))
    predictors = [predict for predict, _ in made]
    about = {
        "run": str(run.path),
        "source": str(run.path),
        "members": [str(path) for path, _ in members],
        "weights": {"auto": "EMA where kept, else model", "model": "model", "ema": "EMA"}[settings.weights],
        "precision": "/".join(dict.fromkeys(predict.precision for predict in predictors)),
        **_about_ensemble(record),
    }
    return Evaluation(_score(logits, splits.test, record.classes), about | _how(splits, settings, predictors))


def _about_ensemble(record: EnsembleRecord) -> dict[str, Any]:
    kept = ("method", "weighting", "fit_on")
    about = {"ensemble": {key: record.result["ensemble"].get(key) for key in kept}}
    return about | ({"optimistic": record.optimistic} if record.optimistic else {})


def _predict(path: Path, checkpoint: Checkpoint, data: Dataset, settings: _Settings) -> tuple[Predictor, Tensor]:
    check_images(checkpoint, data, str(path))
    where = settings.device
    model, trained_as = checkpoint_model(checkpoint, weights=settings.weights, device=where, where=str(path))
    precision = precision_on(trained_as, where)
    predict = Predictor(model, checkpoint_augment(checkpoint, trained_as), precision, settings.views)
    return predict, predict(data.to(where), settings.batch_size)


def _how(splits: Splits, settings: _Settings, predictors: Sequence[Predictor]) -> dict[str, Any]:
    """What was scored, and how long it took; of an ensemble, a batch takes the time of all members."""
    seconds = np.sum([predict.batch_seconds for predict in predictors], axis=0)
    return {
        "dataset": splits.name,
        "official": splits.test.official,
        "fingerprint": splits.fingerprint,
        "tta": settings.tta,
        "views": len(settings.views),
        "device": settings.device,
        "batch_size": min(settings.batch_size, len(splits.test)),
        "images_per_second": len(splits.test) / float(seconds.sum()),
        "milliseconds_a_batch": 1000 * float(np.median(seconds)),
    }


def _load(recipe: Recipe, settings: _Settings) -> Splits:
    image_size = recipe.image_size if settings.dataset is None else None
    return load_dataset(
        settings.dataset or recipe.dataset,
        data_dir=settings.data_dir or recipe.data_dir,
        image_size=image_size,
        seed=recipe.seed,
    )


def _score(logits: Tensor, data: Dataset, model_classes: Sequence[str]) -> PredictionScores:
    labels, classes = data.labels, data.classes
    mapping = class_map(model_classes, classes)
    if mapping is not None:
        logits, labels, classes = mapping.map_logits(logits), mapping.map_labels(labels), mapping.classes
    return score_predictions(logits.cpu().numpy(), labels.cpu().numpy(), classes)


def _score_stored(run: RunFolder, settings: _Settings, record: EnsembleRecord | None = None) -> Evaluation:
    if not settings.plain:
        raise UserError(
            f"{run.path} has no checkpoint: only its predictions.npz, without other settings, can be scored"
        )
    if not (run.path / "predictions.npz").exists():
        raise UserError(f"{run.path} has no checkpoint and no predictions.npz")
    result = run.read_result()
    logits, labels = run.read_predictions()
    names = [str(number) for number in range(logits.shape[1] if logits.ndim == 2 else 0)]
    about = {
        "run": str(run.path),
        "source": str(run.path / "predictions.npz"),
        "dataset": result.get("dataset", "an unknown data set"),
        "official": result.get("official", False),
        "fingerprint": result.get("fingerprint"),
        **(_about_ensemble(record) if record else {}),
    }
    return Evaluation(score_predictions(logits, labels, record.classes if record else names), about)


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    options = vars(parse_flags(EvaluateOptions, arguments, prog="cifarfast evaluate"))
    run, as_json = RunFolder(options.pop("run")), options.pop("json")
    found = evaluate(run, **options)
    print(json.dumps(found.to_json()) if as_json else found.to_text())
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
