"""``cifarfast recipes``: the recipes, what they train and what their sources report."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ..studies.catalogue import catalogue_table
from .flags import parse_flags


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """List the recipes with what they train and the accuracy their source reports."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern of the names, for example 'b2*', or a table's letter: A, B, C."""


def run_command(arguments: list[str]) -> int:
    """Print the table; return the exit code."""
    options = parse_flags(RecipesOptions, arguments, prog="cifarfast recipes")
    print(catalogue_table(options.pattern))
    return 0
