"""``python -m cifarfast.evaluate RUN``: score a run's newest weights on its test set."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from .checkpoint import newest_checkpoint
from .data import load_dataset
from .environment import pick_device
from .errors import UserError
from .flags import parse_flags, run_main
from .inference import evaluate_checkpoint
from .run import RunFolder


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a run's newest checkpoint on its data set's test images."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Which weights; auto takes the EMA when the run keeps one."""
    data_dir: str | None = None
    """Folder that holds the data sets; default: as in training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes a GPU when there is one."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 500
    """Images a batch."""
    json: bool = False
    """Print JSON instead of a line."""


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    options = parse_flags(EvaluateOptions, arguments, prog="cifarfast evaluate")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: must be at least 1")
    run = RunFolder(options.run)
    recipe = run.read_config()
    found = newest_checkpoint(run.checkpoints)
    if found is None:
        raise UserError(f"{run.path} has no checkpoint")
    path, checkpoint, problems = found
    for problem in problems:
        print(f"cifarfast: {problem}", file=sys.stderr)
    data_dir = options.data_dir or recipe.data_dir
    splits = load_dataset(recipe.dataset, data_dir=data_dir, image_size=recipe.image_size, seed=recipe.seed)
    device = pick_device(options.device)
    scores = evaluate_checkpoint(
        checkpoint, splits.test.to(device), weights=options.weights, batch_size=options.batch_size, where=str(path)
    )
    if options.json:
        about = {"run": str(run.path), "checkpoint": path.name, "images": len(splits.test)}
        print(json.dumps(about | scores._asdict()))
        return 0
    print(
        f"{path}: test accuracy {scores.accuracy_percent:.2f} %, top-5 {scores.top5_percent:.2f} %, "
        f"loss {scores.loss:.4f} on {len(splits.test):,} images"
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
