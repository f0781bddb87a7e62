"""``cifarfast datasets``: the data sets that --dataset takes."""

from dataclasses import dataclass

from ..data import list_datasets
from .flags import parse_flags


@dataclass(frozen=True, kw_only=True)
class DatasetsOptions:
    """List the data sets by the names that --dataset takes."""


def run_command(arguments: list[str]) -> int:
    """Print the table; return the exit code."""
    parse_flags(DatasetsOptions, arguments, prog="cifarfast datasets")
    rows = list_datasets()
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in rows))
    return 0
