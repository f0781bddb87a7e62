"""Goes through the problems, measures what has not been measured, and writes the table after every shape."""

import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..convolution.tiles import kernel_row
from .candidates import PARTS, candidates, label
from .choose import as_text, fastest, merged_rows
from .problems import PARTS_OF, Problem, all_problems, by_importance
from .record import Measurements, write_whole
from .tables import ABOUT, Tile, load

# seconds of a problem with a row; raises an AssertionError where the result is wrong
Measure = Callable[[Problem, Tile], float]


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
        prepare: Callable[[list[tuple[Problem, Tile]]], None] = lambda todo: None,
        ready: Callable[[Problem, Tile], None] = lambda problem, row: None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.table, self.measurements, self.measure = table, measurements, measure
        self.deadline, self.clock, self.prepare, self.ready, self.say = deadline, clock, prepare, ready, say
        self.problems = all_problems()
        self._rows: dict[Problem, list[Tile]] = {}
        self.default = load("default")

    def run(self, ops: Collection[str]) -> bool:
        """Measure what is missing of these ops and of those whose kernels they use; return whether all is known."""
        wanted = {*ops, *(PARTS_OF[op] for op in ops if op in PARTS_OF)}
        todo = by_importance([problem for op, found in self.problems.items() if op in wanted for problem in found])
        apart = [(problem, row) for problem in todo if not _compares_library(problem) for row in self.rows(problem)]
        self.prepare([(problem, row) for problem, row in apart if not self._known(problem, row)])
        try:
            for i, problem in enumerate(todo):
                if self._measure_problem(problem):
                    self.say(f"[{i + 1}/{len(todo)}] {problem.key}: {self._outcome(problem)}")
                    self.write()
        except OutOfTimeError:
            return False
        finally:
            self.write()
        return True

    def rows(self, problem: Problem) -> list[Tile]:
        """The rows to compare for a problem, the default first; whole ones, without ``up_to``."""
        if not _compares_library(problem):
            if problem not in self._rows:
                self._rows[problem] = self._candidates(problem)
            return self._rows[problem]
        tuned = self._default(problem.op, problem.size)
        for part in PARTS:
            best = self._best(
                [p for p in self.problems[PARTS_OF[problem.op]] if (p.part, p.size) == (part, problem.size)]
            )
            tuned |= {name: value for name, value in (best or {}).items() if name.startswith(f"{part}_")}
        return [tuned | {"library": library} for library in (1, 0)]

    def write(self) -> None:
        """Write the table and the measurements."""
        self.measurements.save()
        tables = json.loads(self.table.read_text(encoding="utf-8")) if self.table.is_file() else {}
        tables.pop(ABOUT, None)
        for op, found in self.problems.items():
            whole = [problem for problem in found if not problem.part]
            sizes = dict.fromkeys(problem.size for problem in whole)
            best = {size: self._best([problem for problem in whole if problem.size == size]) for size in sizes}
            chosen = {size: row for size, row in best.items() if row is not None}
            if chosen:
                tables[op] = merged_rows(self.default[op], chosen, whole=len(chosen) == len(sizes))
        if tables:
            write_whole(self.table, as_text(self.measurements.about, tables))

    def _measure_problem(self, problem: Problem) -> bool:
        """Whether there was anything to measure."""
        todo = [row for row in self.rows(problem) if not self._known(problem, row)]
        for row in todo:
            if self.clock() >= self.deadline:
                raise OutOfTimeError
            self.ready(problem, row)
            self.measurements.begin(problem.key, label(row))
            try:
                self.measurements.put(problem.key, label(row), self.measure(problem, row))
            except AssertionError as error:
                self.measurements.put(problem.key, label(row), f"wrong: {error}")
            # a tile may be impossible in more ways than can be listed: too much memory, a compiler's error
            except Exception as error:
                self.measurements.put(problem.key, label(row), f"failed: {type(error).__name__}: {error}"[:200])
                if "CUDA error" in str(error):  # nothing works in this process any more
                    raise
        return bool(todo)

    def _candidates(self, problem: Problem) -> list[Tile]:
        default = self._default(problem.op, problem.size)
        if not problem.part:
            return candidates(problem.op, "", problem.size, default)
        found = candidates(problem.op, problem.part, problem.size, kernel_row(default, problem.part))
        return [default | {f"{problem.part}_{name}": value for name, value in row.items()} for row in found]

    def _known(self, problem: Problem, row: Tile) -> bool:
        return self.measurements.get(problem.key, label(row)) is not None

    def _best(self, cases: Sequence[Problem]) -> Tile | None:
        """The fastest row over the cases of a size whose rows are all measured; None without any, or if none is right.

        So a table is worth something before the larger batches, which come last, have been measured.
        """
        if not cases:
            return None
        rows = self.rows(cases[0])
        known = [problem for problem in cases if all(self._known(problem, row) for row in rows)]
        return fastest(rows, [self.measurements.results[problem.key] for problem in known])

    def _default(self, op: str, size: int) -> Tile:
        row = next(row for row in self.default[op] if size <= row["up_to"])
        return {name: value for name, value in row.items() if name != "up_to"}

    def _outcome(self, problem: Problem) -> str:
        """What a problem's measurements say, in a line."""
        rows, results = self.rows(problem), self.measurements.results[problem.key]
        best = fastest(rows, [results])
        if best is None:
            return "no candidate is right"
        first, seconds = results[label(rows[0])], results[label(best)]
        assert isinstance(seconds, float)
        text = f"{seconds * 1e6:.1f} µs"
        text += f", the default {first * 1e6:.1f} µs" if isinstance(first, float) else f", the default is {first}"
        wrong = sum(isinstance(result, str) for result in results.values())
        return text + (f", {wrong} of {len(results)} candidates are wrong or failed" if wrong else "")


def _compares_library(problem: Problem) -> bool:
    """Whether a problem's rows differ in whether cuDNN runs: they are known only when the parts are."""
    return problem.op in PARTS_OF and not problem.part
