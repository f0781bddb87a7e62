"""``cifarfast models``: the models with their parameters and multiply-accumulates."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ..errors import UserError, nearest
from ..models import format_table, list_models, model_info
from .flags import parse_flags


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """List the models with their parameters and multiply-accumulates for one image."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern of the names, for example 'wrn*'."""
    num_classes: int = 10
    """Classes."""


def run_command(arguments: list[str]) -> int:
    """Print the table; return the exit code."""
    options = parse_flags(ModelsOptions, arguments, prog="cifarfast models")
    names = list_models(options.pattern)
    if not names:
        raise UserError(f"no model matches {options.pattern!r}{nearest(options.pattern, list_models())}")
    print(format_table([model_info(name, num_classes=options.num_classes) for name in names]))
    return 0
