"""``cifarfast.train``."""

import contextlib
import io
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipes.recipe import Recipe, load_recipe, with_settings
from ..runs.run_folder import RunFolder
from ..runtime.signals import Interrupted
from ..training.engine import AfterEpoch
from ..training.train import train as train_run
from .run import Run


def train(
    recipe: Recipe | str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    after_epoch: AfterEpoch | None = None,
    **settings: Any,
) -> Run:
    """Train an image classifier and return its run.

    >>> import cifarfast
    >>> run = cifarfast.train("quickstart", epochs=3, lr=1e-3, out="runs/mine", quiet=True)
    >>> run.path.name, run.result["changed_settings"]
    ('mine', ['epochs: 3 ≠ 20', 'lr: 0.001 ≠ 0.002'])

    In a notebook the progress bar is a widget. When it is interrupted (Ctrl-C, or the kernel's stop button), the state
    is saved, and the same call with ``out`` and ``resume=True`` goes on from it.

    Args:
        recipe: a name that ``cifarfast recipes`` lists, a TOML file, or a ``Recipe``; without one the defaults, or with
            ``resume`` the settings of the run in ``out``.
        out: run folder, by default a new one under ``runs/``.
        resume: continue the run in ``out``, or start it where there is none.
        quiet: print nothing and show no bar.
        after_epoch: called with each epoch's row of ``metrics.csv`` and of ``timing.csv``, two dictionaries.
        settings: fields of ``Recipe`` that differ from the recipe's: ``epochs=2, data_dir="data"``.

    Raises:
        UserError: wrong settings, data, folder or checkpoint.
        KeyboardInterrupt: SIGINT came; the state is saved.
        SystemExit: SIGTERM came; the state is saved.
    """
    if resume and out is None:
        raise UserError("resume needs out, the run folder to continue")
    chosen = _chosen(recipe, out if resume else None)
    if settings:
        chosen = with_settings(chosen, settings, "settings")
    silence = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    try:
        with silence:
            folder = train_run(chosen, out=out, resume=resume, show_progress=not quiet, after_epoch=after_epoch)
    except Interrupted as stop:
        again = f"stopped, the state is saved: call train(…, out={str(stop.folder)!r}, resume=True) to go on"
        if stop.exit_code == 130:
            raise KeyboardInterrupt(again) from None
        raise SystemExit(stop.exit_code) from None
    return Run(folder.path)


def _chosen(recipe: Recipe | str | Path | None, resumed: str | Path | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return load_recipe(str(recipe))[0]
    if resumed is not None and (folder := RunFolder(resumed)).exists:
        return folder.read_config()
    return Recipe()
