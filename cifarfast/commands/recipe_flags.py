"""The settings of a recipe as flags, for the commands that take them."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from ..recipes.recipe import Recipe, load_recipe, with_settings
from ..runs.run_folder import RunFolder


def base_recipe(arguments: list[str]) -> Recipe:
    """The recipe that the flags are laid over: ``--recipe``'s, else the run's that is resumed, else the defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe")
    parser.add_argument("--out")
    parser.add_argument("--resume", action="store_true")
    try:
        known, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}") from None
    if known.recipe is not None:
        return load_recipe(known.recipe)[0]
    if known.resume and known.out and (folder := RunFolder(known.out)).exists:
        return folder.read_config()
    return Recipe()


def given_settings(arguments: Sequence[str], settings: Recipe) -> dict[str, Any]:
    """The settings that stand on a command line as flags, with the values that were parsed from it."""
    flags = {argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")}
    given = {}
    for f in dataclasses.fields(Recipe):
        name = f.name.replace("_", "-")
        if flags & {f"--{name}", f"--no-{name}"}:
            given[f.name] = getattr(settings, f.name)
    return given


def checked(settings: Recipe) -> Recipe:
    """The same settings once their ranges are checked, which flags alone are not."""
    return with_settings(settings, {}, "command line")
