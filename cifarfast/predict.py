"""``cifarfast predict RUN IMAGE|DIR …``: what a trained model sees in image files."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from .classifier import ImageClassifier
from .ensembling import EnsembleClassifier, load_model
from .environment import pick_device
from .errors import UserError
from .flags import parse_flags, run_main
from .image_files import list_images, read_image
from .report.score_table import aligned


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Classify image files of any size with a trained model."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CKPT")]
    """Run folder (its newest checkpoint, or an ensemble), or a checkpoint in its checkpoints/."""
    images: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|DIR [IMAGE|DIR ...]", help_behavior_hint="")
    ]
    """Image files, and folders whose images are all taken."""
    top_k: Annotated[int, tyro.conf.arg(metavar="K")] = 5
    """Classes shown of each image, the likeliest first."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Which weights; auto takes the EMA when the run keeps one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes a GPU when there is one."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    """Images a batch."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class FilePrediction:
    """The likeliest classes of one image file: names, positions and confidences (softmax, 0…1), falling."""

    path: str
    classes: tuple[str, ...]
    positions: tuple[int, ...]
    confidences: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        rows = zip(self.classes, self.positions, self.confidences, strict=True)
        named = [{"class": name, "index": place, "confidence": value} for name, place, value in rows]
        return {"path": self.path, "predictions": named}


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be used, and why."""

    path: str
    reason: str


def predict_files(
    model: ImageClassifier | EnsembleClassifier,
    paths: Sequence[str | Path],
    *,
    top_k: int = 5,
    batch_size: int = 64,
) -> Iterator[FilePrediction | Unreadable]:
    """Classify image files and the images in folders, in their order, a batch at a time.

    Args:
        model: as ``load_model`` returns it, on the device that is to compute.
        paths: of files and folders.
        top_k: classes of each image; at most as many as there are.
        batch_size: images a batch.

    Yields:
        for every image its likeliest classes, or why it could not be used.
    """
    device = next(model.parameters()).device
    files = _files(paths)
    while batch := list(islice(files, batch_size)):
        read: dict[int, np.ndarray] = {}
        failed: dict[int, Unreadable] = {}
        for place, found in enumerate(batch):
            try:
                if isinstance(found, Unreadable):
                    failed[place] = found
                else:
                    read[place] = read_image(found, model.image_size, model.in_channels)
            except UserError as error:
                failed[place] = Unreadable(str(found), str(error))
        rows = iter(_classify(model, np.stack(list(read.values())), device, top_k) if read else ())
        for place, found in enumerate(batch):
            yield failed[place] if place in failed else FilePrediction(str(found), *next(rows))


def _files(paths: Sequence[str | Path]) -> Iterator[Path | Unreadable]:
    for path in paths:
        try:
            yield from list_images(Path(path))
        except UserError as error:
            yield Unreadable(str(path), str(error))
        except OSError as error:
            yield Unreadable(str(path), f"{path}: cannot be listed: {error.strerror or error}")


@torch.inference_mode()
def _classify(
    model: ImageClassifier | EnsembleClassifier, images: np.ndarray, device: torch.device, top_k: int
) -> list[tuple[tuple[str, ...], tuple[int, ...], tuple[float, ...]]]:
    probabilities = model(torch.from_numpy(images).to(device)).double().softmax(dim=1)
    best = probabilities.topk(min(top_k, len(model.classes)), dim=1)
    return [
        (tuple(model.classes[place] for place in places), tuple(places), tuple(values))
        for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def prediction_table(predictions: Sequence[FilePrediction]) -> str:
    """A line for each image: its path, then classes and confidences in percent."""
    most = max(len(each.classes) for each in predictions)
    header = ("image", *(f"{place}." for place in range(1, most + 1)))
    rows = [
        (each.path, *(f"{name} {100 * p:.1f} %" for name, p in zip(each.classes, each.confidences, strict=True)))
        for each in predictions
    ]
    return aligned([header, *rows], left=range(most + 1))


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code, 2 when a file could not be used."""
    options = parse_flags(PredictOptions, arguments, prog="cifarfast predict")
    for flag, value in (("--top-k", options.top_k), ("--batch-size", options.batch_size)):
        if value < 1:
            raise UserError(f"{flag} {value}: must be at least 1")
    if not options.images:
        raise UserError("no image was named: give files or folders after the run")
    model = load_model(options.source, weights=options.weights, device=pick_device(options.device))
    predictions, failed = [], []
    for found in predict_files(model, options.images, top_k=options.top_k, batch_size=options.batch_size):
        if isinstance(found, Unreadable):
            failed.append(found)
            print(f"cifarfast: {' '.join(found.reason.split())}", file=sys.stderr)
        else:
            predictions.append(found)
    if options.json:
        images = [each.to_json() for each in predictions]
        errors = [{"path": each.path, "error": each.reason} for each in failed]
        print(json.dumps({"source": options.source, "images": images, "errors": errors}))
    elif predictions:
        print(prediction_table(predictions))
    return 2 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
