"""The page that a check of a GPU leaves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.parts import Ran
from bench.record import sessions
from bench.render import markdown, step_table
from bench.targets import judge, load_results, shortfall_table

MOST_NOTES = 600


def page(environment: dict[str, Any], results: Sequence[Ran], folder: Path) -> str:
    """Markdown: the machine, how each part went, the training step, where its time goes, and what fell short.

    Args:
        environment: as ``collect_environment`` gives it.
        results: the parts that ran.
        folder: the device's results; earlier ones count too.
    """
    gpu = environment["gpu"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    where = f"{gpu['name']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}" if gpu else environment["cpu"]
    lines = [
        f"# Check on {where}",
        "",
        f"Commit {environment['commit'] or 'unknown'}; Python {environment['python']}, {packages}.",
        "",
        markdown(
            ("part", "outcome", "seconds", "notes"),
            ((ran.part.title, ran.outcome, f"{ran.seconds:.0f}", _short(ran.notes)) for ran in results),
        ),
    ]
    steps = _documents(folder / "train_step.json")
    if any("step_ms" in row for document in steps for row in document["rows"]):
        lines += ["", "## Training step", "", step_table(steps)]
        lines += _kernels(steps)
    lines += ["", "## Targets", "", shortfall_table(judge(load_results(folder)))]
    return "\n".join(lines) + "\n"


def _short(notes: str) -> str:
    """Notes that fit a table's cell."""
    text = " ".join(notes.replace("|", "/").split())
    return text if len(text) <= MOST_NOTES else text[: MOST_NOTES - 1] + "…"


def _documents(path: Path) -> list[dict[str, Any]]:
    return sessions(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def _kernels(documents: Sequence[dict[str, Any]], most: int = 8) -> list[str]:
    """The kernels that take the most time of each step of this package."""
    lines: list[str] = []
    for row in (row for document in documents for row in document["rows"]):
        if row["contender"] == "cifarfast" and row.get("top_kernels"):
            step = 1e3 * row["step_ms"]["median"]
            busiest = []
            for kernel in row["top_kernels"][:most]:
                name, share = kernel["name"][:60].replace("|", "/"), 100 * kernel["microseconds"] / step
                busiest.append(f"{name} {share:.0f} % ({kernel['calls']:.0f})")
            lines += ["", f"{row['name'].partition(' | ')[0]}: {'; '.join(busiest)}"]
    return ["", "## Kernels by their part of a step (calls)", *lines] if lines else []
