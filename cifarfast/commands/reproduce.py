"""``cifarfast reproduce RECIPE …``: run recipes with several seeds, and compare with what was reported."""

import shlex
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..errors import UserError
from ..recipes.recipe import Recipe
from ..report.reproduction import reproduction_table
from ..runs.environment import command
from ..runtime.signals import Interrupted
from ..studies.reproduce import RESULTS, reproduce, save_results
from .flags import parse_flags, run_main
from .recipe_flags import given_settings


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Run recipes with several seeds, resume what is unfinished, and compare with what their sources report.

    A flag for a setting holds for every run, and the table shows it as a changed setting. What is not given is as each
    recipe says, whatever stands as default below.
    """

    settings: Annotated[Recipe, tyro.conf.arg(name="")]
    recipes: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE|TABLE ...", help_behavior_hint="")
    ]
    """Names that `cifarfast recipes` lists, or letters of tables (A, B, C), which stand for all their rows."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Runs of each recipe: with its seed, the next, and so on."""
    out: str = "runs/reproduction"
    """Folder of the runs and the table."""
    save_results: bool = False
    """Also write the rows to bench/results/<GPU, or cpu>/reproduction.json of this checkout."""
    quiet: bool = False
    """No progress bar."""


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    default = ReproduceOptions(settings=Recipe(), recipes=())
    options = parse_flags(ReproduceOptions, arguments, prog="cifarfast reproduce", default=default)
    if options.save_results and not RESULTS.is_dir():
        raise UserError(f"--save-results is for a checkout: there is no {RESULTS}")
    try:
        done = reproduce(
            options.recipes,
            seeds=options.seeds,
            out=options.out,
            overrides=given_settings(arguments, options.settings),
            show_progress=not options.quiet,
        )
    except (Interrupted, KeyboardInterrupt) as stop:
        print("\nstopped; what was finished is kept, and the run that was not goes on from its state", file=sys.stderr)
        print(f"continue with: {command('reproduce')} {shlex.join(arguments)}", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Interrupted) else 130
    print(reproduction_table(done.rows))
    print(f"table: {done.page}")
    if options.save_results:
        print("\n".join(f"results: {path}" for path in save_results(done.rows)))
    if done.problems:
        raise UserError(f"{len(done.problems)} of the runs failed, {done.page} says why: {'; '.join(done.problems)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)
