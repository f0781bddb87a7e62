"""``python -m cifarfast.report RUN [RUN …]``: compare runs."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..flags import parse_flags, run_main
from ..run import RunFolder
from .comparison import comparison_table


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Compare finished runs in one table."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    options = parse_flags(ReportOptions, arguments, prog="cifarfast report")
    print(comparison_table([RunFolder(path) for path in options.runs]))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
