"""``cifarfast evaluate RUN``: score a run's newest weights on its test set, or on another data set."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ..ensembling.evaluation import evaluate
from ..runs.run_folder import RunFolder
from .flags import parse_flags, run_main


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
