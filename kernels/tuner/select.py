"""From measurements to a table."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..tuning.tables import ABOUT, Tile
from .candidates import label
from .record import Result

# a row that is not at least this much faster than the default one is noise
_LEAST_GAIN = 0.01


def fastest(rows: Sequence[Tile], results: Sequence[Mapping[str, Result]]) -> Tile | None:
    """The row with the least time over all cases, each case's times in units of its best; the first unless beaten.

    Args:
        rows: the candidates, the default one first.
        results: for each case, seconds by a row's label, or what went wrong.

    Returns:
        The row, or None if no row was right in every case.
    """
    seconds = [
        {text: value for text, value in case.items() if not isinstance(value, str) and value > 0} for case in results
    ]
    right = [row for row in rows if seconds and all(label(row) in case for case in seconds)]
    if not right:
        return None
    scores = [sum(math.log(case[label(row)]) for case in seconds) / len(seconds) for row in right]
    best = min(range(len(right)), key=scores.__getitem__)
    if right[0] is rows[0] and scores[0] - scores[best] < math.log1p(_LEAST_GAIN):
        return right[0]
    return right[best]


def merged_rows(default: Sequence[Tile], chosen: Mapping[int, Tile], *, whole: bool) -> list[Tile]:
    """An op's rows: what was chosen, by size, and the default ones.

    Args:
        default: rows with ``up_to``.
        chosen: tiles without ``up_to``.
        whole: whether all of the op's sizes were measured: default rows below the largest of them are then left out.
    """
    if not chosen:
        return list(default)
    largest = max(chosen)
    rows = {row["up_to"]: row for row in default if row["up_to"] > largest or not whole}
    rows |= {size: {"up_to": size, **row} for size, row in chosen.items()}
    found: list[Tile] = []
    for size in sorted(rows, reverse=True):
        tiles = {name: value for name, value in rows[size].items() if name != "up_to"}
        # a row like the one above it is no row of its own
        if not found or tiles != {name: value for name, value in found[-1].items() if name != "up_to"}:
            found.append({"up_to": size, **tiles})
    return found[::-1]


def as_text(about: Mapping[str, Any], tables: Mapping[str, Sequence[Tile]]) -> str:
    """A table's file: ops in alphabetical order, a row a line."""
    lines = [f" {json.dumps(ABOUT)}: {json.dumps(about)}"]
    for op in sorted(tables):
        rows = ",\n".join(f"  {json.dumps(row)}" for row in tables[op])
        lines.append(f" {json.dumps(op)}: [\n{rows}\n ]")
    return "{\n" + ",\n".join(lines) + "\n}\n"
