"""What the project set out to reach on one H200, as data, and what measured results fall short of."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ops_verdicts import verdicts
from bench.record import sessions
from bench.train_step.cases import PYRAMID, TARGETED, WRN, Case
from bench.train_step.contenders import COMPILED, EAGER, OURS

Row = dict[str, Any]
Results = dict[str, dict[str, Row]]
"""Suite → name of a row → row."""


@dataclass(frozen=True)
class Target:
    """A number to reach.

    Args:
        what: in words.
        wanted: the number.
        most: whether it is the most allowed; else the least.
        measured: from all results, None where that was not measured.
    """

    what: str
    wanted: float
    most: bool
    measured: Callable[[Results], float | None]


@dataclass(frozen=True)
class Outcome:
    """A target and what was measured for it; None where nothing was."""

    target: Target
    measured: float | None

    @property
    def share(self) -> float | None:
        """1 or more where the target is reached."""
        if self.measured is None:
            return None
        if self.target.most:
            return self.target.wanted / self.measured if self.measured else float("inf")
        return self.measured / self.target.wanted


# case, at least so many times as fast as torch eager and as torch.compile, at most so many times floor b
STEPS: list[tuple[Case, float, float, float]] = [
    (Case(WRN, "sgd", 512), 1.5, 1.15, 1.25),
    (Case(WRN, "asam", 128), 2.0, 1.3, 1.4),
    (Case(PYRAMID, "asam", 128), 5.0, 2.0, 1.5),
]
ASAM_IN_PLAIN_STEPS = 2.05
SHARE_BETWEEN_STEPS = 0.01
AUGMENT_SHARE_OF_COPY = 0.6
AUGMENT_EPOCH_MS = 5.0


def targets() -> list[Target]:
    """All of them, those of the training step first."""
    return [*_step_targets(), *_augment_targets()]


def _step_targets() -> Iterator[Target]:
    def figure(case: Case, contender: str, *path: str) -> Callable[[Results], float | None]:
        return lambda results: _find(results, "train_step", f"{case.name} | {contender}", *path)

    for case, eager, compiled, floor in STEPS:
        slower = "times_as_long_as_cifarfast"
        yield Target(f"{case.name}: times as fast as torch eager", eager, False, figure(case, EAGER.name, slower))
        yield Target(
            f"{case.name}: times as fast as torch.compile", compiled, False, figure(case, COMPILED.name, slower)
        )
        percent = figure(case, OURS.name, "percent_of_floor", "nominal_h200", "b")
        yield Target(f"{case.name}: times floor b", floor, True, lambda r, percent=percent: _inverse(percent(r)))  # type: ignore[misc]
    for case in TARGETED:
        if case.passes == 2:
            cost = figure(case, OURS.name, "plain_steps")
            yield Target(f"{case.name}: plain steps that an ASAM step costs", ASAM_IN_PLAIN_STEPS, True, cost)
    for case in TARGETED:
        gap = figure(case, OURS.name, "share_between_steps")
        yield Target(f"{case.name}: share of the time between steps", SHARE_BETWEEN_STEPS, True, gap)


def _augment_targets() -> Iterator[Target]:
    yield Target(
        "augmentation, crop + flip + cutout: share of copy bandwidth",
        AUGMENT_SHARE_OF_COPY,
        False,
        lambda results: _find(results, "augment", "crop_flip_cutout kernels", "share_of_copy"),
    )
    yield Target(
        "augmentation, SA + AutoAugment + CutMix: ms of kernels an epoch",
        AUGMENT_EPOCH_MS,
        True,
        lambda results: _find(results, "augment", "sa_autoaugment_cutmix kernels", "epoch_ms", "median"),
    )


def _find(results: Results, suite: str, name: str, *path: str) -> float | None:
    value: Any = results.get(suite, {}).get(name)
    for key in path:
        value = None if value is None else value.get(key)
    return value


def _inverse(percent: float | None) -> float | None:
    """From the floor's part of a time, in percent, to how many times the floor that time is."""
    return None if percent is None else 100 / percent


def load_results(folder: Path) -> Results:
    """The rows of every suite in a device's folder of results."""
    results: Results = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if "rows" not in document:
            continue
        rows = results.setdefault(path.stem, {})
        for session in sessions(document):
            for row in session["rows"]:
                rows.setdefault(row["name"], row)
    return results


def judge(results: Results) -> list[Outcome]:
    """Every target with what was measured for it, and the verdicts that the ops' benchmark came to itself."""
    outcomes = [Outcome(target, target.measured(results)) for target in targets()]
    for row in _verdicts(results.get("ops", {})):
        target = Target(f"{row['op']} {row['case']}: {row['what']}", row["wanted"], False, lambda _: None)
        outcomes.append(Outcome(target, row["value"]))
    return outcomes


def _verdicts(ops: dict[str, Row]) -> list[Row]:
    """The verdicts among the ops' rows, and those that the others allow where their session was ended before it."""
    found = {name: row for name, row in ops.items() if "wanted" in row}
    if "roofline" in ops:
        for row in verdicts(ops.values(), ops["roofline"]["bytes_per_second"]):
            found.setdefault(row["name"], row)
    return list(found.values())


def shortfall_table(outcomes: Iterable[Outcome]) -> str:
    """What fell short, in Markdown, the farthest first; then in a line what was not measured."""
    outcomes = list(outcomes)
    short = [o for o in outcomes if o.share is not None and o.share < 1]
    unknown = [o.target.what for o in outcomes if o.share is None]
    lines = [f"{len(outcomes) - len(short) - len(unknown)} of {len(outcomes)} targets reached."]
    if short:
        lines += ["", "| fell short | to reach | measured | measured / to reach |", "| --- | --- | --- | --- |"]
    for outcome in sorted(short, key=lambda o: o.share or 0.0):
        target, measured = outcome.target, outcome.measured
        assert measured is not None
        sign = "≤" if target.most else "≥"
        ratio = measured / target.wanted
        lines.append(f"| {target.what} | {sign} {target.wanted:g} | {measured:.3g} | {ratio:.2f} |")
    if unknown:
        lines += ["", f"Not measured: {'; '.join(unknown)}."]
    return "\n".join(lines)
