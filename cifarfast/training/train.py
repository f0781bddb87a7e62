"""The whole of a training: settings → data → run folder → ``Trainer.fit``."""

import dataclasses
import os
import sys
from pathlib import Path

import torch

from ..data import Splits, data_folder
from ..errors import UserError
from ..models import check_model_name
from ..recipes.build import load_recipe_data
from ..recipes.recipe import Recipe, differences
from ..runs.environment import collect_environment, environment_after, pick_device
from ..runs.run_folder import RunFolder, free_run_folder
from ..runtime.console import console
from ..runtime.distributed import join_world
from ..runtime.files import user_path
from ..runtime.torch_state import own_torch_state
from ..runtime.user import name_user
from .engine import AfterEpoch, Trainer


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
    after_epoch: AfterEpoch | None = None,
) -> RunFolder:
    """Run a whole training and return its run folder.

    Args:
        recipe: the settings; choices left open are resolved for this machine.
        out: run folder, by default a new one under ``runs/``.
        resume: continue the run in ``out`` from its newest checkpoint that verifies.
        show_progress: a progress bar when stderr is a terminal.
        after_epoch: called in process 0 with each epoch's row of ``metrics.csv`` and of ``timing.csv``.

    Raises:
        UserError: wrong settings, data, folder or checkpoint.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state is saved.
    """
    name_user()
    with console(), own_torch_state():
        return _train(recipe, user_path(out) if out is not None else None, resume, show_progress, after_epoch)


def _train(
    recipe: Recipe, out: Path | None, resume: bool, show_progress: bool, after_epoch: AfterEpoch | None
) -> RunFolder:
    recipe = resolve(recipe)
    world = join_world(recipe.device)
    ask_for_determinism(recipe)
    run = RunFolder(world.broadcast_text(str(out if out is not None else free_run_folder(Path("runs"), recipe))))
    if world.is_main:
        run.check(resume=resume)
    if resume and run.exists and (lines := differences(recipe, run.read_config())):
        raise UserError(f"{run.path} was started with other settings: {'; '.join(lines)}")
    check_model_name(recipe.arch)
    splits = load_recipe_data(recipe).to(recipe.device)
    trainer = Trainer(recipe, splits, run, world=world, show_progress=show_progress)
    if not world.is_main:
        world.broadcast_text("")  # process 0 has made the folder ready
        if resume:
            trainer.resume()
        trainer.fit()
        return run
    on = f"on {recipe.device} in {recipe.precision}" + (f", {world.size} processes" if world.size > 1 else "")
    print(f"{recipe.name}: {recipe.arch} on {splits.describe()}")
    for line in (*splits.notes, describe_shared(splits)):
        print(line)
    print(f"{trainer.steps_per_epoch} steps an epoch, epochs: {recipe.epochs}; {on}")
    data = {"dataset": splits.name, "fingerprint": splits.fingerprint, "official": splits.official}
    environment = collect_environment() | {"data": data, "processes": world.size}
    if resume and (run.path / "environment.json").exists():
        before = run.read_environment()
        environment, line = environment_after(before, environment)
        if line:
            print(f"cifarfast: {line}", file=sys.stderr)
    with run.writing(resume=resume):
        run.write_config(recipe)
        if resume:
            print(trainer.resume())
        run.write_environment(environment)
        print(f"run folder: {run.path}", flush=True)
        world.broadcast_text("")
        trainer.fit(after_epoch)
    return run


def describe_shared(splits: Splits) -> str:
    """A line on the training images that are test images too."""
    shared = splits.train_images_in_test
    if not shared:
        return "no training image is in the test part too (compared by pixels)"
    return (
        f"{shared:,} of {len(splits.train):,} training images are in the test part too, pixel for pixel, so the test "
        "accuracy is too high: --drop-train-duplicates leaves them out of training"
    )


def resolve(recipe: Recipe) -> Recipe:
    """The settings as a run folder keeps them: choices made for this machine, paths that hold from any folder."""
    return _with_absolute_paths(recipe).resolved(pick_device(recipe.device))


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with its data found from any folder, as its run folder may be used from another one."""
    kind, colon, path = recipe.dataset.partition(":")
    if kind in ("folder", "csv") and colon and path:
        recipe = dataclasses.replace(recipe, dataset=f"{kind}:{user_path(path).absolute()}")
    return dataclasses.replace(recipe, data_dir=str(data_folder(recipe.data_dir).absolute()))


def ask_for_determinism(recipe: Recipe) -> None:
    if recipe.device == "cpu":  # its algorithms are; asking would only import torch's compiler
        return
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    # otherwise every tensor that is about to be written is filled first
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not recipe.deterministic
