"""Combine finished runs into an ensemble, by settings or by a recipe that names its members."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..recipes.recipe import About
from ..runs.run_folder import RunFolder
from .make import make_ensemble
from .settings import EnsembleRecipe, make_settings


def ensemble(
    members: Sequence[RunFolder | str | Path],
    *,
    out: str | Path | None = None,
    name: str = "ensemble",
    data_dir: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 500,
    **settings: Any,
) -> RunFolder:
    """Combine finished runs into an ensemble and return its run folder.

    Args:
        members: run folders of the same data, at least 2. Where something is fitted on held-out images they share one
            ``val_split`` and ``split_seed`` (by default the seed), or are all folds of each model.
        out: the ensemble's run folder, by default a new one under ``runs/``.
        name: what the ensemble is called.
        data_dir: folder that holds the data sets, for held-out images; default: as in training.
        device: that predicts held-out images.
        batch_size: held-out images a batch.
        settings: fields of ``EnsembleSettings``: method, weights, fit_on, hidden, epochs, lr, …

    Raises:
        UserError: runs that cannot be combined, nothing to fit on, a wrong setting, or a folder that cannot be written.
    """
    recipe = EnsembleRecipe(name, (), make_settings(settings, "ensemble"), About())
    return make_ensemble(members, recipe, out=out, data_dir=data_dir, device=device, batch_size=batch_size)


def members_in_order(recipe: EnsembleRecipe, runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs in the order in which the recipe names their recipes.

    Raises:
        UserError: a member has no run or several, or a run is of no member.
    """
    by_name: dict[str, RunFolder] = {}
    for run in runs:
        name = run.read_config().name
        if name not in recipe.members:
            raise UserError(f"{run.path} is of the recipe {name}: {recipe.name} has {', '.join(recipe.members)}")
        if name in by_name:
            raise UserError(f"{by_name[name].path} and {run.path} are both of {name}: {recipe.name} takes one")
        by_name[name] = run
    missing = [member for member in recipe.members if member not in by_name]
    if missing:
        raise UserError(f"{recipe.name} needs a run of each of its members: {', '.join(missing)} is missing")
    return [by_name[member] for member in recipe.members]
