"""``cifarfast report RUN [RUN …]``: compare runs in a table and in one HTML file."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ..report.comparison import comparison_table
from ..report.load import warn
from ..runs.run_folder import RunFolder
from .flags import parse_flags, run_main


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Compare finished runs: a table here, everything else in one HTML file that needs no network."""

    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")
    ]
    """Run folders."""
    out: str | None = None
    """The HTML file; default: report.html in the first run's folder."""
    data_dir: str | None = None
    """Folder that holds the data sets, for pictures; default: as in training."""
    table: bool = False
    """Print the table only."""


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code, 2 when a run had to be left out."""
    options = parse_flags(ReportOptions, arguments, prog="cifarfast report")
    if options.table:
        print(comparison_table([RunFolder(path) for path in options.runs]))
        return 0
    from ..report.page import write_report  # the drawing is not needed for the table

    written = write_report(options.runs, out=options.out, data_dir=options.data_dir)
    warn([*written.problems, *written.notes])
    print(comparison_table([run.folder for run in written.runs]))
    print(f"report: {written.path}")
    return 2 if written.problems else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)
