"""``cifarfast train``: train an image classifier and leave a run folder."""

import dataclasses
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..data.official import data_name
from ..errors import UserError
from ..recipes.recipe import Recipe, to_toml
from ..runs.environment import command, pick_device
from ..runtime.distributed import is_main_process, leave_world
from ..runtime.signals import Interrupted
from ..training.train import train
from .flags import parse_flags, run_main
from .recipe_flags import base_recipe, checked


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train an image classifier: defaults < recipe file < flags."""

    settings: Annotated[Recipe, tyro.conf.arg(name="")]
    recipe: str | None = None
    """Recipe to start from: a name that `cifarfast recipes` lists, or a TOML file."""
    out: str | None = None
    """Run folder; default: a new one under runs/."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint that verifies."""
    print_config: bool = False
    """Print the resolved settings as a recipe file and stop."""
    quiet: bool = False
    """No progress bar."""


def parse_options(arguments: list[str]) -> TrainOptions:
    """Parse the command line; the flags' defaults are those of the recipe, or of the run that is resumed.

    Raises:
        UserError: an unknown flag, a value that is not allowed, an unreadable recipe.
    """
    default = TrainOptions(settings=base_recipe(arguments))
    options = parse_flags(TrainOptions, arguments, prog="cifarfast train", default=default)
    if options.resume and not options.out:
        raise UserError("--resume needs --out DIR, the run folder to continue")
    return dataclasses.replace(options, settings=checked(options.settings))


def summary(result: dict[str, Any]) -> str:
    """The outcome of a run in two lines."""
    macs = f", {result['macs'] / 1e6:,.1f} M MACs an image" if "macs" in result else ""
    best = f"best {result['best_test_accuracy_percent']:.2f} % after epoch {result['best_epoch']}"
    if "val_accuracy_percent" in result and result["kept_epoch"] == result["best_epoch"]:
        best = "its validation loss was the lowest"
    stopped = f"; stopped early after epoch {result['epochs']}: the validation loss no longer fell"
    return (
        f"test accuracy {result['test_accuracy_percent']:.2f} % after epoch {result['kept_epoch']} "
        f"on {data_name(result)}; {best}\n"
        f"{result['train_seconds']:.1f} s of training, {result['images_per_second']:,.0f} images/s, "
        f"{result['parameters']:,} parameters" + macs + (stopped if result["stopped_early"] else "")
    )


def next_steps(dataset: str, device: str, run: Path) -> str:
    """What to type next; after a first run also a training on CIFAR-10 that suits the device."""
    lines = [f"next: {command(name)} {shlex.quote(str(run))}" for name in ("evaluate", "report")]
    if dataset == "digits":
        settings = "--recipe b01_lenet" if device == "cpu" else "--arch wrn16_8 --epochs 200"
        lines.append(f"CIFAR-10: {command('train')} {settings}")
    return "\n".join(lines)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    options = parse_options(arguments)
    settings = options.settings
    if options.print_config:
        resolved = settings.resolved(pick_device(settings.device))
        # these stay as they were given: what is printed here may run on another machine
        here = {name: getattr(settings, name) for name in ("device", "precision", "backend")}
        print(to_toml(dataclasses.replace(resolved, **here)), end="")
        return 0
    stopped = 0
    try:
        run = train(settings, out=options.out, resume=options.resume, show_progress=not options.quiet)
    except Interrupted as stop:
        if is_main_process():
            print(f"\nstopped by {stop}; the state is saved", file=sys.stderr)
            again = command("train", processes=int(os.environ.get("WORLD_SIZE", "1")))
            print(f"resume with: {again} --out {shlex.quote(str(stop.folder))} --resume", file=sys.stderr)
        stopped = stop.exit_code
    leave_world()  # here, as the exception keeps the trainer and with it its graphs
    if stopped:
        return stopped
    if is_main_process():
        try:
            print(summary(run.read_result()))
        except Exception as error:  # the run is whole, whatever fails here
            print(f"cifarfast: the run is saved; its summary failed: {_one_line(error)}", file=sys.stderr)
        print(next_steps(settings.dataset, pick_device(settings.device), run.path))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)
