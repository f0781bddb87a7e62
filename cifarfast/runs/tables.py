"""``metrics.csv`` and ``timing.csv``: one row an epoch."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .reading import check, damage
from .schemas import MetricsRow, TimingRow

Row = dict[str, Any]


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header; a cell is empty where its row lacks the column."""
    if not rows:
        return ""
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def from_csv(data: bytes, path: Path, model: type[MetricsRow] | type[TimingRow]) -> list[dict[str, float]]:
    """The rows of a CSV text in UTF-8, whose cells are numbers; an empty cell is left out.

    Raises:
        UserError: a row is not of ``model``, or the rows are not those of epochs 1, 2, 3, …; names ``path``.
    """
    with damage(path):
        header, *lines = list(csv.reader(io.StringIO(data.decode()), strict=True)) or [[]]
        if len(set(header)) != len(header) or any(len(line) != len(header) for line in lines):
            raise UserError(f"cannot read {path}: its rows have not the same columns")
        rows = [{key: float(cell) for key, cell in zip(header, line, strict=True) if cell != ""} for line in lines]
    for row in rows:
        check(model, row, path)
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise UserError(f"cannot read {path}: its rows are not those of the epochs 1 to {len(rows)}")
    return rows
