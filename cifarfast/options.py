"""What the commands that take a recipe's settings as flags share."""

import argparse
import dataclasses

from .errors import UserError
from .recipe import Recipe, load_recipe, validate
from .run import RunFolder


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


def checked(settings: Recipe) -> Recipe:
    """The same settings once their ranges are checked, which flags alone are not."""
    values = {key: value for key, value in dataclasses.asdict(settings).items() if value is not None}
    return validate(values, "command line")
