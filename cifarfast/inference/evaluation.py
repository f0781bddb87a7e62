"""Scores of a run's newest weights on its test set, or on another data set."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ..augment import View
from ..data import Dataset, Splits, class_names, load_dataset
from ..data.duplicates import also_in
from ..data.official import data_name
from ..errors import UserError
from ..recipes.build import load_recipe_data
from ..recipes.recipe import Recipe
from ..runs.checkpoint import Checkpoint, newest_checkpoint
from ..runs.run_folder import RunFolder
from .checkpoint_model import check_images, checkpoint_augment, checkpoint_model
from .classifier import Weights, precision_on
from .label_map import label_map
from .score_table import score_table
from .scores import PredictionScores, score_predictions
from .tta import TTAPredictor


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
        lines = [
            f"{about['source']}: test accuracy {scores.accuracy_percent:.2f} %, top-5 {scores.top5_percent:.2f} %, "
            f"loss {scores.loss:.4f} on {scores.images:,} images of {data_name(about)}"
        ]
        if about.get("test_images_in_training"):
            lines.append(
                f"{about['test_images_in_training']:,} of these images are among the training images too, pixel for "
                "pixel: these numbers are too good by that"
            )
        elif about.get("test_images_in_training", 0) is None:
            lines.append("whether these images are among the training images was not seen: those are not here")
        if about.get("optimistic"):
            lines.append(f"these numbers are {about['optimistic']}")
        if "images_per_second" in about:
            lines.append(
                f"{about['weights']} weights, {about['views']} view{'s' if about['views'] > 1 else ''} an image, "
                f"{about['images_per_second']:,.0f} images/s, {about['milliseconds_a_batch']:.2f} ms a batch of "
                f"{about['batch_size']} on {about['device']} in {about['precision']}"
            )
        return "\n".join([*lines, score_table(scores)])


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is scored: the settings of the command line, checked."""

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


def evaluate_run(run: RunFolder, settings: EvaluationSettings) -> Evaluation:
    """Score the newest checkpoint of a run that is no ensemble, or its ``predictions.npz`` where it has no checkpoint.

    Raises:
        UserError: there is nothing to score, or the data do not fit the model.
    """
    recipe = run.read_config()
    found = newest_checkpoint(run.checkpoints)
    if found is None:
        return score_stored(run, settings)
    path, checkpoint, problems = found
    for problem in problems:
        print(f"cifarfast: {problem}", file=sys.stderr)
    splits = load_splits(recipe, settings, checkpoint.state["classes"])
    if settings.dataset is None and splits.fingerprint != checkpoint.state.get("fingerprint"):
        print(f"cifarfast: {recipe.dataset} is not the data that {run.path} was trained on", file=sys.stderr)
    predict, logits = predict_checkpoint(path, checkpoint, splits.test, settings)
    about = {
        "run": str(run.path),
        "source": str(path),
        "checkpoint": path.name,
        "weights": "EMA" if settings.weights != "model" and "ema" in checkpoint.tensors else "model",
        "precision": predict.precision,
    }
    scores = score_logits(logits, splits.test, checkpoint.state["classes"])
    return Evaluation(scores, about | data_and_speed(splits, recipe, settings, [predict]))


def predict_checkpoint(
    path: Path, checkpoint: Checkpoint, data: Dataset, settings: EvaluationSettings
) -> tuple[TTAPredictor, Tensor]:
    """The predictor of a checkpoint, and its logits fp32 [N, C] for the images of ``data``."""
    check_images(checkpoint, data, str(path))
    where = settings.device
    model, trained_as = checkpoint_model(checkpoint, weights=settings.weights, device=where, where=str(path))
    precision = precision_on(trained_as, where)
    predict = TTAPredictor(model, checkpoint_augment(checkpoint, trained_as), precision, settings.views)
    return predict, predict(data.to(where), settings.batch_size)


def data_and_speed(
    splits: Splits, recipe: Recipe, settings: EvaluationSettings, predictors: Sequence[TTAPredictor]
) -> dict[str, Any]:
    """Which data were scored, how many of them were trained on, and how fast.

    A batch of an ensemble takes the sum of its members' times.
    """
    seconds = np.sum([predict.batch_seconds for predict in predictors], axis=0)
    return {
        "dataset": splits.name,
        "official": splits.test.official,
        "fingerprint": splits.fingerprint,
        "test_images_in_training": _seen_in_training(splits, recipe, settings),
        "tta": settings.tta,
        "views": len(settings.views),
        "device": settings.device,
        "batch_size": min(settings.batch_size, len(splits.test)),
        "images_per_second": len(splits.test) / float(seconds.sum()),
        "milliseconds_a_batch": 1000 * float(np.median(seconds)),
    }


def load_splits(recipe: Recipe, settings: EvaluationSettings, classes: Sequence[str]) -> Splits:
    """The data set that is scored: the one asked for, else the recipe's, its training part that of the run.

    Raises:
        UserError: as ``load_dataset``; and, before anything is loaded where that can be known, when the data's classes
            are others than the model's.
    """
    if settings.dataset is None:
        splits = load_recipe_data(recipe, data_dir=settings.data_dir)
    else:
        data_dir = settings.data_dir or recipe.data_dir
        known = class_names(settings.dataset, data_dir)
        if known is not None:
            label_map(classes, known)
        splits = load_dataset(settings.dataset, data_dir=data_dir, background=recipe.background)
    for note in splits.notes:
        print(f"cifarfast: {note}", file=sys.stderr)
    return splits


def _seen_in_training(splits: Splits, recipe: Recipe, settings: EvaluationSettings) -> int | None:
    """Test images that the run was trained on, pixel for pixel; None where its data set is not there."""
    try:
        own = settings.dataset is None
        train = (splits if own else load_recipe_data(recipe, data_dir=settings.data_dir, download=False)).train
    except UserError:
        return None
    return int(also_in(splits.test.images, train.images).sum())


def score_logits(logits: Tensor, data: Dataset, model_classes: Sequence[str]) -> PredictionScores:
    """Scores of logits [N, C] over the model's classes against the labels of ``data``, whose classes may differ."""
    labels, classes = data.labels, data.classes
    mapping = label_map(model_classes, classes)
    if mapping is not None:
        logits, labels, classes = mapping.map_logits(logits), mapping.map_labels(labels), mapping.classes
    return score_predictions(logits.cpu().numpy(), labels.cpu().numpy(), classes)


def score_stored(
    run: RunFolder,
    settings: EvaluationSettings,
    *,
    classes: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Score the ``predictions.npz`` of a run without checkpoints.

    Args:
        classes: names, by default the numbers of the classes.
        about: further entries of ``Evaluation.about``.

    Raises:
        UserError: there is no such file, or the settings ask for other predictions.
    """
    if not settings.plain:
        raise UserError(
            f"{run.path} has no checkpoint: only its predictions.npz, without other settings, can be scored"
        )
    if not (run.path / "predictions.npz").exists():
        raise UserError(f"{run.path} has no checkpoint and no predictions.npz")
    result = run.read_result()
    logits, labels = run.read_predictions()
    names = [str(number) for number in range(logits.shape[1])]
    described = {
        "run": str(run.path),
        "source": str(run.path / "predictions.npz"),
        **{key: result[key] for key in ("dataset", "official", "fingerprint")},
        **(about or {}),
    }
    return Evaluation(score_predictions(logits, labels, classes or names), described)
