"""``python -m cifarfast.evaluate RUN``: score a run's newest weights on its test set, or on another data set."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from .augment import Augment, View, views
from .checkpoint import Checkpoint, newest_checkpoint
from .classmap import class_map
from .data import Dataset, Splits, load_dataset
from .environment import pick_device
from .errors import UserError
from .flags import parse_flags, run_main
from .inference import DTYPES, autocast, check_images, checkpoint_augment, checkpoint_model
from .recipe import Recipe
from .report.score_table import score_table
from .run import RunFolder
from .scores import PredictionScores, score_predictions


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a run's newest checkpoint on test images: accuracy, loss, per-class scores, calibration, confusion."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder."""
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
        if "images_per_second" in about:
            lines.append(
                f"{about['weights']} weights, {about['views']} view{'s' if about['views'] > 1 else ''} an image, "
                f"{about['images_per_second']:,.0f} images/s, {about['milliseconds_a_batch']:.2f} ms a batch of "
                f"{about['batch_size']} on {about['device']} in {about['precision']}"
            )
        return "\n".join([*lines, score_table(scores)])


class Predictor:
    """Logits of a model, averaged over the views of test-time augmentation, with the time each batch takes."""

    def __init__(self, model: nn.Module, prepare: Augment, precision: str, test_views: list[View]) -> None:
        self.model, self.precision = model, precision
        self.weights = [view.weight for view in test_views]
        self.prepares = [
            Augment(
                [*view.transforms, *prepare.transforms],
                prepare.mean,
                prepare.std,
                seed=prepare.seed,
                dtype=DTYPES[precision],
                channels_last=prepare.channels_last,
            )
            for view in test_views
        ]
        self.batch_seconds: list[float] = []

    @torch.inference_mode()
    def __call__(self, data: Dataset, batch_size: int) -> Tensor:
        """Logits fp32 [N, C] for every image, in the data's order. A first batch that is not timed warms up."""
        parts = torch.arange(len(data), device=data.images.device).split(batch_size)
        self._batch(data, parts[0])
        logits = []
        for part in parts:
            started = time.perf_counter()
            logits.append(self._batch(data, part))
            self.batch_seconds.append(time.perf_counter() - started)
        return torch.cat(logits)

    def _batch(self, data: Dataset, part: Tensor) -> Tensor:
        total = torch.zeros((), device=part.device)
        with autocast(part.device, self.precision):
            for prepare, weight in zip(self.prepares, self.weights, strict=True):
                total = total + weight * self.model(prepare(data.images, data.labels, part, 0).images).float()
        if part.device.type == "cuda":
            torch.cuda.synchronize(part.device)
        return total


def evaluate(
    run: RunFolder,
    *,
    weights: Literal["auto", "model", "ema"] = "auto",
    dataset: str | None = None,
    tta: str = "none",
    tta_shift: int = 1,
    data_dir: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 500,
) -> Evaluation:
    """Score a run's newest checkpoint; the settings are those of the command line.

    A run without checkpoints is scored by its ``predictions.npz``, where no setting asks for anything else.

    Raises:
        UserError: nothing to score, data that do not fit the model, or a setting that is not allowed.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    test_views = views(tta, shift=tta_shift)
    recipe = run.read_config()
    found = newest_checkpoint(run.checkpoints)
    if found is None:
        return _score_stored(run, recipe, plain=(weights, dataset, tta) == ("auto", None, "none"))
    path, checkpoint, problems = found
    for problem in problems:
        print(f"cifarfast: {problem}", file=sys.stderr)
    where = pick_device(device)
    splits = _load(recipe, dataset, data_dir)
    if dataset is None and splits.fingerprint != checkpoint.state.get("fingerprint"):
        print(f"cifarfast: {recipe.dataset} is not the data that {run.path} was trained on", file=sys.stderr)
    check_images(checkpoint, splits.test, str(path))
    model, trained_as = checkpoint_model(checkpoint, weights=weights, device=where, where=str(path))
    # a GPU's precision may not be there on the CPU, and is slow there
    precision = trained_as.precision if where == "cuda" or trained_as.device == "cpu" else "fp32"
    predict = Predictor(model, checkpoint_augment(checkpoint, trained_as), precision, test_views)
    scores = _score(predict(splits.test.to(where), batch_size), splits.test, checkpoint)
    seconds = predict.batch_seconds
    return Evaluation(
        scores,
        {
            "run": str(run.path),
            "source": str(path),
            "checkpoint": path.name,
            "weights": "EMA" if weights != "model" and "ema" in checkpoint.tensors else "model",
            "dataset": splits.name,
            "official": splits.test.official,
            "fingerprint": splits.fingerprint,
            "tta": tta,
            "views": len(test_views),
            "device": where,
            "precision": precision,
            "batch_size": batch_size,
            "images_per_second": len(splits.test) / sum(seconds),
            "milliseconds_a_batch": 1000 * float(np.median(seconds)),
        },
    )


def _load(recipe: Recipe, dataset: str | None, data_dir: str | Path | None) -> Splits:
    image_size = recipe.image_size if dataset is None else None
    return load_dataset(
        dataset or recipe.dataset, data_dir=data_dir or recipe.data_dir, image_size=image_size, seed=recipe.seed
    )


def _score(logits: Tensor, data: Dataset, checkpoint: Checkpoint) -> PredictionScores:
    labels, classes = data.labels, data.classes
    mapping = class_map(checkpoint.state["classes"], classes)
    if mapping is not None:
        logits, labels, classes = mapping.map_logits(logits), mapping.map_labels(labels), mapping.classes
    return score_predictions(logits.cpu().numpy(), labels.cpu().numpy(), classes)


def _score_stored(run: RunFolder, recipe: Recipe, *, plain: bool) -> Evaluation:
    if not plain:
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
        "dataset": result.get("dataset", recipe.dataset),
        "official": result.get("official", False),
        "fingerprint": result.get("fingerprint"),
    }
    return Evaluation(score_predictions(logits, labels, names), about)


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
