"""``cifarfast predict RUN IMAGE|DIR …``: what a trained model sees in image files."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ..ensembling import load_model
from ..errors import UserError
from ..inference.predict_files import FilePrediction, LeftOut, Unreadable, predict_files
from ..inference.score_table import NAME_WIDTH, aligned
from ..runs.environment import pick_device
from ..runtime.console import printable
from .flags import parse_flags, run_main


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


def prediction_table(predictions: Sequence[FilePrediction]) -> str:
    """A line for each image: its path, then classes and confidences in percent."""
    most = max(len(each.classes) for each in predictions)
    header = ("image", *(f"{place}." for place in range(1, most + 1)))
    rows = [
        (
            each.path,
            *(
                f"{printable(name, NAME_WIDTH)} {100 * p:.1f} %"
                for name, p in zip(each.classes, each.confidences, strict=True)
            ),
        )
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
    predictions: list[FilePrediction] = []
    failed: list[Unreadable] = []
    left_out: list[LeftOut] = []
    for found in predict_files(model, options.images, top_k=options.top_k, batch_size=options.batch_size):
        if isinstance(found, Unreadable):
            failed.append(found)
            print(f"cifarfast: {' '.join(found.reason.split())}", file=sys.stderr)
        elif isinstance(found, LeftOut):
            left_out.append(found)
            print(f"cifarfast: {found.path}: {found.to_text()}", file=sys.stderr)
        else:
            predictions.append(found)
    if options.json:
        images = [each.to_json() for each in predictions]
        errors = [{"path": each.path, "error": each.reason} for each in failed]
        others = [{"path": each.path, "files": each.files} for each in left_out]
        print(json.dumps({"source": options.source, "images": images, "errors": errors, "left_out": others}))
    elif predictions:
        print(prediction_table(predictions))
    return 2 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)
