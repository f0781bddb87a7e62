"""Reproduced results beside the reported ones: a row a recipe, as plain values and as a Markdown table.

A row's ``last`` and ``best`` are test accuracies in percent after the last epoch, which is the headline, and in the
best one, which is what most sources report. ``mean`` and ``sd`` are over the seeds; ``sd`` is the sample standard
deviation, None for a single run.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..data.official import has_official_files, is_copy
from ..runs.run_folder import RunFolder

Status = Literal["finished", "unfinished", "pending", "failed"]
Values = dict[str, Any]

COLUMNS = (
    *("recipe", "reported %", "last epoch %", "best epoch %", "runs"),
    *("data", "train s", "images/s", "on", "changed settings"),
)
_KEPT = (
    *("dataset", "official", "fingerprint", "epochs", "test_accuracy_percent", "best_test_accuracy_percent"),
    *("best_epoch", "train_seconds", "images_per_second"),
)


@dataclass(frozen=True)
class Attempt:
    """One run that a table is about.

    Attributes:
        changed: settings that differ from the recipe's, known before the run has a result.
        status: unfinished means begun, pending not begun.
        problem: why it failed.
    """

    recipe: str
    seed: int
    folder: RunFolder
    changed: tuple[str, ...] = ()
    status: Status = "pending"
    problem: str = ""


def read_attempt(attempt: Attempt) -> Values:
    """What a finished run's folder says, as plain values.

    Raises:
        UserError: the folder is not that of a finished run, or was written by another version.
    """
    result = attempt.folder.read_result()
    environment = attempt.folder.read_environment()
    gpu = environment.get("gpu") if result.get("device") != "cpu" else None
    return {
        **{key: result[key] for key in _KEPT},
        "seed": attempt.seed,
        "changed_settings": result.get("changed_settings", list(attempt.changed)),
        "optimistic": bool(result.get("optimistic", False)),
        "precision": result.get("precision"),
        "gpu": gpu["name"] if gpu else None,
        "machine": gpu["name"] if gpu else environment.get("cpu"),
        "threads": None if gpu else environment.get("threads"),
        "commit": environment.get("commit"),
        "torch": environment.get("packages", {}).get("torch"),
    }


def make_rows(attempts: Sequence[Attempt], reported: dict[str, Values]) -> list[Values]:
    """Rows of the recipes, in the attempts' order.

    Runs of one recipe on different data or machines are different rows, as their numbers have no common mean. What has
    not finished stands in the recipe's first row.

    Args:
        attempts: every run, finished or not.
        reported: recipe → ``source``, ``reported_accuracy_percent`` (or None) and ``reported`` (in words).
    """
    rows = []
    for recipe in dict.fromkeys(attempt.recipe for attempt in attempts):
        ours = [attempt for attempt in attempts if attempt.recipe == recipe]
        groups: dict[tuple[Any, ...], list[Values]] = {}
        for attempt in ours:
            if attempt.status == "finished":
                values = read_attempt(attempt)
                groups.setdefault((values["fingerprint"], values["machine"], values["precision"]), []).append(values)
        made = [_finished_row(recipe, group) for group in groups.values()] or [{"recipe": recipe, "seeds": []}]
        made[0]["open"] = [
            {"seed": attempt.seed, "status": attempt.status, "problem": attempt.problem}
            for attempt in ours
            if attempt.status != "finished"
        ]
        for row in made:
            row.setdefault("changed_settings", list(ours[0].changed))
            rows.append(row | _reported(row, reported[recipe]))
    return rows


def _finished_row(recipe: str, runs: Sequence[Values]) -> Values:
    first = runs[0]
    return {
        "recipe": recipe,
        "seeds": [run["seed"] for run in runs],
        "data": {key: first[key] for key in ("dataset", "official", "fingerprint")},
        "epochs": [run["epochs"] for run in runs],
        "last": _summary(run["test_accuracy_percent"] for run in runs),
        "best": _summary(run["best_test_accuracy_percent"] for run in runs),
        "best_epochs": [run["best_epoch"] for run in runs],
        "train_seconds": _summary(run["train_seconds"] for run in runs),
        "images_per_second": _summary(run["images_per_second"] for run in runs),
        "optimistic": any(run["optimistic"] for run in runs),
        "precision": first["precision"],
        "gpu": first["gpu"],
        "machine": first["machine"],
        "threads": first["threads"],
        "commits": sorted({run["commit"] for run in runs if run["commit"]}),
        "torch": sorted({run["torch"] for run in runs if run["torch"]}),
        "changed_settings": first["changed_settings"],
    }


def _summary(values: Iterable[float]) -> Values:
    runs = list(values)
    return {
        "mean": statistics.fmean(runs),
        "sd": statistics.stdev(runs) if len(runs) > 1 else None,
        "runs": runs,
    }


def _reported(row: Values, source: Values) -> Values:
    """What the source reports; where the row is on another data set than the source, that says nothing."""
    if any(line.startswith("dataset: ") for line in row["changed_settings"]):
        source = source | {"reported_accuracy_percent": None, "reported": ""}
    return {key: source[key] for key in ("source", "reported_accuracy_percent", "reported")}


def reproduction_table(rows: Sequence[Values]) -> str:
    """The rows as a Markdown table."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: Values) -> tuple[str, ...]:
    percent = row["reported_accuracy_percent"]
    source = row["reported"] or "–" if percent is None else f"{percent:g}"
    if not row["seeds"]:
        return (row["recipe"], source, "–", "–", _runs(row), "–", "–", "–", "–", _changed(row))
    mark = " (optimistic)" if row["optimistic"] else ""
    return (
        row["recipe"],
        source,
        _mean(row["last"]) + mark,
        _mean(row["best"]) + mark,
        _runs(row),
        _data(row["data"]),
        f"{row['train_seconds']['mean']:,.1f}",
        f"{row['images_per_second']['mean']:,.0f}",
        _machine(row),
        _changed(row),
    )


def _mean(summary: Values) -> str:
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:.2f}"
    return f"{summary['mean']:.2f}{spread}"


def _runs(row: Values) -> str:
    """How many runs the numbers are of, and how many there are not: ``2, 1 failed``."""
    counts = [str(len(row["seeds"]))] if row["seeds"] else []
    for status in ("failed", "unfinished", "pending"):
        count = sum(run["status"] == status for run in row.get("open", []))
        if count:
            counts.append(f"{count} {status}")
    return ", ".join(counts)


def _data(data: Values) -> str:
    """The data set; of one that has official files also whether they are these."""
    name = str(data["dataset"])
    if not has_official_files(name):
        return name
    return f"{name}, {'copy' if is_copy(data) else 'official'}"


def _machine(row: Values) -> str:
    parts = [str(row["machine"] or "unknown")]
    if row["threads"]:
        parts.append(f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}")
    if row["precision"]:
        parts.append(row["precision"])
    return ", ".join(parts)


def _changed(row: Values) -> str:
    return "; ".join(row["changed_settings"]).replace("|", "\\|") or "–"


def reproduction_page(rows: Sequence[Values]) -> str:
    """``reproduction.md``: the table, what its columns mean, and why runs failed."""
    parts = [
        "# Reproduction",
        reproduction_table(rows),
        "Reported: what the recipe's source gives, on the test set and mostly of the best epoch. Ours: test accuracy "
        "after the last epoch, which is the headline, and in the best epoch; mean ± sample standard deviation over the "
        "runs, one a seed. No setting was chosen by the test set. Training seconds leave evaluation out.",
    ]
    if any(is_copy(row["data"]) for row in rows if "data" in row):
        parts.append(
            "copy: these are not the data set's official files, so the accuracies are not those on the official data."
        )
    if any(row.get("optimistic") for row in rows):
        parts.append("optimistic: something was fitted on the test set, as in the source.")
    failed = [
        f"- {row['recipe']}, seed {run['seed']}: {run['problem']}"
        for row in rows
        for run in row.get("open", [])
        if run["status"] == "failed"
    ]
    if failed:
        parts += ["Failed:", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"
