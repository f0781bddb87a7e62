"""``python -m cifarfast.train``: train an image classifier and leave a run folder."""

import dataclasses
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from .callable_module import CallableModule
from .data import data_folder, load_dataset
from .distributed import is_writer, join_world, leave_world
from .engine import Trainer
from .environment import collect_environment, command, pick_device
from .errors import UserError
from .flags import parse_flags, run_main
from .options import base_recipe, checked
from .recipe import Recipe, differences, to_toml
from .run import RunFolder, free_run_folder
from .signals import Interrupted


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


def train(
    recipe: Recipe, *, out: str | Path | None = None, resume: bool = False, show_progress: bool = True
) -> RunFolder:
    """Run a whole training and return its run folder.

    Args:
        recipe: the settings; choices left open are resolved for this machine.
        out: run folder, by default a new one under ``runs/``.
        resume: continue the run in ``out`` from its newest checkpoint that verifies.
        show_progress: a progress bar when stderr is a terminal.

    Raises:
        UserError: wrong settings, data, folder or checkpoint.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    recipe = resolve(recipe)
    world = join_world(recipe.device)
    _ask_for_determinism(recipe)
    run = RunFolder(world.text(str(out if out is not None else free_run_folder(Path("runs"), recipe))))
    if world.writes:
        run.check(resume=resume)
    if resume and run.exists and (lines := differences(recipe, run.read_config())):
        raise UserError(f"{run.path} was started with other settings: {'; '.join(lines)}")
    splits = load_dataset(
        recipe.dataset,
        data_dir=recipe.data_dir,
        val_split=recipe.val_split,
        folds=recipe.folds,
        fold=recipe.fold,
        limit_train=recipe.limit_train,
        image_size=recipe.image_size,
        seed=recipe.seed,
        split_seed=recipe.split_seed,
    ).to(recipe.device)
    trainer = Trainer(recipe, splits, run, world=world, show_progress=show_progress)
    if not world.writes:
        world.text("")  # process 0 has made the folder ready
        if resume:
            trainer.resume()
        trainer.fit()
        return run
    on = f"on {recipe.device} in {recipe.precision}" + (f", {world.size} processes" if world.size > 1 else "")
    print(f"{recipe.name}: {recipe.arch} on {splits.describe()}")
    print(f"{trainer.steps_per_epoch} steps an epoch, epochs: {recipe.epochs}; {on}")
    data = {"dataset": splits.name, "fingerprint": splits.fingerprint, "official": splits.official}
    environment = collect_environment() | {"data": data, "processes": world.size}
    with run.writing(resume=resume):
        run.write_config(recipe)
        if resume:
            print(trainer.resume())
        run.write_environment(environment)
        print(f"run folder: {run.path}", flush=True)
        world.text("")
        trainer.fit()
    return run


def resolve(recipe: Recipe) -> Recipe:
    """The settings as a run folder keeps them: choices made for this machine, paths that hold from any folder."""
    return _with_absolute_paths(recipe).resolved(pick_device(recipe.device))


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with its data found from any folder, as its run folder may be used from another one."""
    kind, colon, path = recipe.dataset.partition(":")
    if kind in ("folder", "csv") and colon and path:
        recipe = dataclasses.replace(recipe, dataset=f"{kind}:{Path(path).expanduser().absolute()}")
    return dataclasses.replace(recipe, data_dir=str(data_folder(recipe.data_dir).absolute()))


def _ask_for_determinism(recipe: Recipe) -> None:
    if recipe.device == "cpu":  # its algorithms are; asking would only import torch's compiler
        return
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    # otherwise every tensor that is about to be written is filled first
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not recipe.deterministic


def summary(result: dict[str, Any]) -> str:
    """The outcome of a run in two lines."""
    dataset = result["dataset"] + ("" if result["official"] else " (not the official files)")
    return (
        f"test accuracy {result['test_accuracy_percent']:.2f} % after epoch {result['epochs']} on {dataset}; "
        f"best {result['best_test_accuracy_percent']:.2f} % after epoch {result['best_epoch']}\n"
        f"{result['train_seconds']:.1f} s of training, {result['images_per_second']:,.0f} images/s, "
        f"{result['parameters']:,} parameters, {result['macs'] / 1e6:,.1f} M MACs an image"
    )


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
        if is_writer():
            print(f"\nstopped by {stop}; the state is saved", file=sys.stderr)
            again = command("train", processes=int(os.environ.get("WORLD_SIZE", "1")))
            print(f"resume with: {again} --out {shlex.quote(str(stop.folder))} --resume", file=sys.stderr)
        stopped = stop.exit_code
    leave_world()  # here, as the exception keeps the trainer and with it its graphs
    if stopped:
        return stopped
    if is_writer():
        print(summary(run.read_result()))
        print(f"next: {command('report')} {shlex.quote(str(run.path))}")
        if settings.dataset == "digits":
            print(f"CIFAR-10: {command('train')} --arch wrn16_8 --epochs 200")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)


sys.modules[__name__].__class__ = CallableModule  # cifarfast.train(…) is the Python interface's function

if __name__ == "__main__":
    sys.exit(main())
