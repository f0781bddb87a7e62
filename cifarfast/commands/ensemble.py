"""``cifarfast ensemble RUN RUN …``: combine finished runs by voting or stacking into a run folder of its own."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ..ensembling import (
    EnsembleRecipe,
    EnsembleSettings,
    load_ensemble_recipe,
    make_ensemble,
    make_settings,
    read_record,
)
from ..ensembling.ensemble import members_in_order
from ..errors import UserError
from ..recipes.recipe import About
from ..report.ensembles import ensemble_text
from ..runs.environment import command
from ..runs.run_folder import RunFolder
from .flags import parse_flags, run_main


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """Combine finished runs: soft voting with equal, given or searched weights, or stacking with a 3-layer perceptron.

    Weights and perceptron are fitted on training images that the runs held out (--val-split, or all folds of a model).
    """

    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN [RUN ...]", help_behavior_hint="")
    ]
    """Run folders, all of the same data."""
    recipe: str | None = None
    """Ensemble recipe to start from: b32_ensemble, b33_stack, or a TOML file. Its members are found among the runs."""
    out: str | None = None
    """Run folder of the ensemble; default: a new one under runs/."""
    method: Literal["vote", "stack"] | None = None
    """vote: the weighted mean of the runs' probabilities (default); stack: a perceptron on the runs' logits."""
    weights: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="equal|search|W W ...")] = None
    """Of the votes: equal (default), search for the lowest loss on the fitting images, or a number for each run."""
    fit_on: Literal["held-out", "test-as-reported"] | None = None
    """Images to fit on; test-as-reported takes the test set as some sources do: the result is marked as optimistic."""
    hidden: tuple[int, int] | None = None
    """stack: units of the two hidden layers (default: 128 64)."""
    epochs: int | None = None
    """stack: passes over the fitting images (default: 20)."""
    batch_size: int | None = None
    """stack: images a step (default: 128)."""
    lr: float | None = None
    """stack: Adam's learning rate (default: 1e-3)."""
    weight_decay: float | None = None
    """stack: weight decay (default: 1e-4)."""
    dropout: float | None = None
    """stack: dropout rate (default: 0.2)."""
    seed: int | None = None
    """stack: seeds initialisation, order and dropout (default: 42)."""
    data_dir: str | None = None
    """Folder that holds the data sets; default: as in training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that predicts held-out images; auto takes a GPU when there is one."""
    eval_batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 500
    """Held-out images a batch."""
    json: bool = False
    """Print the result as JSON."""


def parse_weights(words: Sequence[str]) -> str | list[float]:
    """``--weights``: equal, search, or numbers.

    Raises:
        UserError: anything else.
    """
    if list(words) in (["equal"], ["search"]):
        return words[0]
    try:
        return [float(word) for word in words]
    except ValueError:
        raise UserError(
            f"--weights {' '.join(words)}: must be equal, search or a number for each run (the runs come first)"
        ) from None


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    options = parse_flags(EnsembleOptions, arguments, prog="cifarfast ensemble")
    runs = [RunFolder(path) for path in options.runs]
    recipe = EnsembleRecipe("ensemble", (), EnsembleSettings(), About())
    if options.recipe is not None:
        recipe = load_ensemble_recipe(options.recipe)
        runs = members_in_order(recipe, runs)
    names = [f.name for f in dataclasses.fields(EnsembleSettings)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.weights is not None:
        given["weights"] = parse_weights(options.weights)
    settings = make_settings(dataclasses.asdict(recipe.settings) | given, "command line")
    made = make_ensemble(
        runs,
        dataclasses.replace(recipe, settings=settings),
        out=options.out,
        data_dir=options.data_dir,
        device=options.device,
        batch_size=options.eval_batch_size,
    )
    if options.json:
        print(json.dumps(made.read_result()))
        return 0
    print(ensemble_text(read_record(made)))
    print(f"run folder: {made.path}")
    print(f"next: {command('evaluate')} {shlex.quote(str(made.path))}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)
