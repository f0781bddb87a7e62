"""Runs side by side in one table."""

from collections.abc import Sequence

from ..data.official import data_name
from ..runs.run_folder import RunFolder
from ..runtime.console import printable

COLUMNS = ("run", "arch", "data", "epochs", "last %", "best %", "at epoch", "train s", "images/s", "parameters")


def comparison_table(runs: Sequence[RunFolder]) -> str:
    """A Markdown table of finished runs: accuracy after the last and the best epoch, time, size.

    An ensemble that was fitted on the test set is marked, and a line below says so.

    Raises:
        UserError: a folder is not that of a finished run.
    """
    names = [run.name for run in runs]
    told_apart = [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]
    rows = [
        COLUMNS,
        *(tuple(map(printable, (name, *_cells(run)))) for name, run in zip(told_apart, runs, strict=True)),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    rows.insert(1, tuple("-" * width for width in widths))
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(cells)} |" for cells in padded]
    remarks = dict.fromkeys(str(run.read_result().get("optimistic", "")) for run in runs)
    return "\n".join([*lines, *(f"* {remark}" for remark in remarks if remark)])


def _cells(run: RunFolder) -> tuple[str, ...]:
    result = run.read_result()
    data = data_name(result)
    mark = " *" if result.get("optimistic") else ""
    return (
        result["arch"],
        data,
        str(result["epochs"] or "–"),
        f"{result['test_accuracy_percent']:.2f}{mark}",
        f"{result['best_test_accuracy_percent']:.2f}{mark}",
        str(result["best_epoch"] or "–"),
        f"{result['train_seconds']:.1f}",
        f"{result['images_per_second']:,.0f}",
        f"{result['parameters']:,}",
    )
