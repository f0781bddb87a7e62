"""Goes through the workloads, measures what has not been measured, and writes the table after every shape."""

import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..convolution.tiles import kernel_row
from ..tuning.tables import ABOUT, Tile, load
from .candidates import PARTS, candidates, label
from .record import Measurements, write_whole
from .select import as_text, fastest, merged_rows
from .workloads import PARTS_OF, Workload, all_workloads, by_importance

# seconds of a workload with a row; raises an AssertionError where the result is wrong
Measure = Callable[[Workload, Tile], float]


class OutOfTimeError(Exception):
    """The budget is spent."""


class Search:
    """One run of the tuner.

    Args:
        table: the file to write.
        measurements: what is known; it grows.
        measure: times a row, verified.
        deadline: of ``clock``: no measurement begins after it.
        prepare: is told what is going to be measured, in order, before it begins.
        ready: is told what is measured next, and may wait until it can be.
        say: takes a line of text.
    """

    def __init__(
        self,
        table: Path,
        measurements: Measurements,
        measure: Measure,
        *,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
        prepare: Callable[[list[tuple[Workload, Tile]]], None] = lambda todo: None,
        ready: Callable[[Workload, Tile], None] = lambda workload, row: None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.table, self.measurements, self.measure = table, measurements, measure
        self.deadline, self.clock, self.prepare, self.ready, self.say = deadline, clock, prepare, ready, say
        self.workloads = all_workloads()
        self._rows: dict[Workload, list[Tile]] = {}
        self.default = load("default")

    def run(self, ops: Collection[str]) -> bool:
        """Measure what is missing of these ops and of those whose kernels they use; return whether all is known."""
        wanted = {*ops, *(PARTS_OF[op] for op in ops if op in PARTS_OF)}
        todo = by_importance([workload for op, found in self.workloads.items() if op in wanted for workload in found])
        apart = [(workload, row) for workload in todo if not _compares_library(workload) for row in self.rows(workload)]
        self.prepare([(workload, row) for workload, row in apart if not self._known(workload, row)])
        try:
            for i, workload in enumerate(todo):
                if self._measure_missing(workload):
                    self.say(f"[{i + 1}/{len(todo)}] {workload.key}: {self._summary(workload)}")
                    self.write()
        except OutOfTimeError:
            return False
        finally:
            self.write()
        return True

    def rows(self, workload: Workload) -> list[Tile]:
        """The rows to compare for a workload, the default first; whole ones, without ``up_to``."""
        if not _compares_library(workload):
            if workload not in self._rows:
                self._rows[workload] = self._candidates(workload)
            return self._rows[workload]
        tuned = self._default(workload.op, workload.size)
        for part in PARTS:
            best = self._best(
                [p for p in self.workloads[PARTS_OF[workload.op]] if (p.part, p.size) == (part, workload.size)]
            )
            tuned |= {name: value for name, value in (best or {}).items() if name.startswith(f"{part}_")}
        return [tuned | {"library": library} for library in (1, 0)]

    def write(self) -> None:
        """Write the table and the measurements."""
        self.measurements.save()
        tables = json.loads(self.table.read_text(encoding="utf-8")) if self.table.is_file() else {}
        tables.pop(ABOUT, None)
        for op, found in self.workloads.items():
            whole = [workload for workload in found if not workload.part]
            sizes = dict.fromkeys(workload.size for workload in whole)
            best = {size: self._best([workload for workload in whole if workload.size == size]) for size in sizes}
            chosen = {size: row for size, row in best.items() if row is not None}
            if chosen:
                tables[op] = merged_rows(self.default[op], chosen, whole=len(chosen) == len(sizes))
        if tables:
            write_whole(self.table, as_text(self.measurements.about, tables))

    def _measure_missing(self, workload: Workload) -> bool:
        """Measure the rows that have not been measured; return whether there were any."""
        todo = [row for row in self.rows(workload) if not self._known(workload, row)]
        for row in todo:
            if self.clock() >= self.deadline:
                raise OutOfTimeError
            self.ready(workload, row)
            self.measurements.begin(workload.key, label(row))
            try:
                self.measurements.put(workload.key, label(row), self.measure(workload, row))
            except AssertionError as error:
                self.measurements.put(workload.key, label(row), f"wrong: {error}")
            # a tile may be impossible in more ways than can be listed: too much memory, a compiler's error
            except Exception as error:
                self.measurements.put(workload.key, label(row), f"failed: {type(error).__name__}: {error}"[:200])
                if "CUDA error" in str(error):  # nothing works in this process any more
                    raise
        return bool(todo)

    def _candidates(self, workload: Workload) -> list[Tile]:
        default = self._default(workload.op, workload.size)
        if not workload.part:
            return candidates(workload.op, "", workload.size, default)
        found = candidates(workload.op, workload.part, workload.size, kernel_row(default, workload.part))
        return [default | {f"{workload.part}_{name}": value for name, value in row.items()} for row in found]

    def _known(self, workload: Workload, row: Tile) -> bool:
        return self.measurements.get(workload.key, label(row)) is not None

    def _best(self, cases: Sequence[Workload]) -> Tile | None:
        """The fastest row over the cases of a size whose rows are all measured; None without any, or if none is right.

        So a table is worth something before the larger batches, which come last, have been measured.
        """
        if not cases:
            return None
        rows = self.rows(cases[0])
        known = [workload for workload in cases if all(self._known(workload, row) for row in rows)]
        return fastest(rows, [self.measurements.results[workload.key] for workload in known])

    def _default(self, op: str, size: int) -> Tile:
        row = next(row for row in self.default[op] if size <= row["up_to"])
        return {name: value for name, value in row.items() if name != "up_to"}

    def _summary(self, workload: Workload) -> str:
        """What a workload's measurements say, in a line."""
        rows, results = self.rows(workload), self.measurements.results[workload.key]
        best = fastest(rows, [results])
        if best is None:
            return "no candidate is right"
        first, seconds = results[label(rows[0])], results[label(best)]
        assert isinstance(seconds, float)
        text = f"{seconds * 1e6:.1f} µs"
        text += f", the default {first * 1e6:.1f} µs" if isinstance(first, float) else f", the default is {first}"
        wrong = sum(isinstance(result, str) for result in results.values())
        return text + (f", {wrong} of {len(results)} candidates are wrong or failed" if wrong else "")


def _compares_library(workload: Workload) -> bool:
    """Whether a workload's rows differ in whether cuDNN runs: they are known only when the parts are."""
    return workload.op in PARTS_OF and not workload.part
