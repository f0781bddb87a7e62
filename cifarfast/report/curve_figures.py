"""Figures of the course of training: loss, accuracy, learning rate and time, all runs over each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .figures import INK, MUTED, PAPER, new_figure, series_color, style, to_svg
from .load import LoadedRun

SIZE = (4.8, 3.1)
LINES: dict[str, dict[str, object]] = {
    "train": {"linestyle": (0, (4, 2)), "linewidth": 1.1, "alpha": 0.75},
    "val": {"linestyle": (0, (1, 1.4)), "linewidth": 1.7},
    "test": {"linestyle": "-", "linewidth": 1.7},
}
NAMES = {"train": "training", "val": "validation", "test": "test"}


def curve_figures(runs: Sequence[LoadedRun]) -> list[str]:
    """SVGs: loss, accuracy, learning rate, accuracy over time. Runs without ``metrics.csv`` are not in them."""
    figures = []
    with style():
        figures.append(_by_epoch(runs, "loss", "Loss (cross-entropy)"))
        figures.append(_by_epoch(runs, "accuracy_percent", "Accuracy, %"))
        figures.append(_learning_rate(runs))
        figures.append(_over_time(runs))
    return figures


def _column(run: LoadedRun, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for row in run.metrics if name in row]
    return np.array([row["epoch"] for row in rows]), np.array([row[name] for row in rows])


def _draw(axes: Axes, x: np.ndarray, y: np.ndarray, number: int, part: str) -> None:
    marker = "o" if len(x) == 1 else ""
    axes.plot(x, y, color=series_color(number), marker=marker, markersize=4, **LINES[part])  # type: ignore[arg-type]


def _by_epoch(runs: Sequence[LoadedRun], what: str, title: str) -> str:
    figure, axes = new_figure(*SIZE)
    parts, values, marked = set(), [], False
    for number, run in enumerate(runs):
        for part in LINES:
            x, y = _column(run, f"{part}_{what}")
            if len(x):
                _draw(axes, x, y, number, part)
                parts.add(part)
                values.append(y)
        reading = run.reading
        if what == "loss" and reading is not None and reading.kind == "overfitting":
            x, y = _column(run, "val_loss" if reading.part == "validation" else "test_loss")
            at = int(np.searchsorted(x, reading.epoch))
            axes.plot(x[at], y[at], "o", markersize=7, color=PAPER, markeredgecolor=series_color(number), mew=1.8)
            marked = True
    handles = [Line2D([], [], color=MUTED, label=NAMES[part], **LINES[part]) for part in LINES if part in parts]  # type: ignore[arg-type]
    if marked:
        handles.append(
            Line2D([], [], ls="", marker="o", ms=6, mfc=PAPER, mec=MUTED, mew=1.6, label="overfitting from here")
        )
    if handles:
        axes.legend(handles=handles, ncols=2)
    if what == "loss" and values:
        everything = np.concatenate(values)
        top = min(everything.max() * 1.05, 3 * float(np.median(everything)))
        axes.set_ylim(0 if everything.min() < 0.3 * top else None, top)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", title=title)
    return to_svg(figure, f"{title} of {len(runs)} runs by epoch")


def _learning_rate(runs: Sequence[LoadedRun]) -> str:
    figure, axes = new_figure(*SIZE)
    peaks = []
    for number, run in enumerate(runs):
        x, y = _column(run, "lr")
        if len(x):
            _draw(axes, x, y, number, "test")
            peaks.append(y.max())
    if peaks and max(peaks) > 20 * min(peaks):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", title="Learning rate at the end of the epoch")
    return to_svg(figure, "Learning rate by epoch")


def _over_time(runs: Sequence[LoadedRun]) -> str:
    figure, axes = new_figure(*SIZE)
    longest = max((sum(row["train_seconds"] for row in run.timing) for run in runs), default=0.0)
    unit, name = (60.0, "minutes") if longest > 300 else (1.0, "seconds")
    for number, run in enumerate(runs):
        seconds = np.cumsum([row["train_seconds"] for row in run.timing])
        done = {row["epoch"]: passed for row, passed in zip(run.timing, seconds, strict=True)}
        x, y = _column(run, "test_accuracy_percent")
        if len(x) and all(epoch in done for epoch in x):
            _draw(axes, np.array([done[epoch] for epoch in x]) / unit, y, number, "test")
            axes.plot(done[x[-1]] / unit, y[-1], "o", markersize=4.5, color=series_color(number))
    axes.set_xlim(left=0)
    axes.set(xlabel=f"{name} of training", title="Test accuracy over time, %")
    axes.title.set_color(INK)
    return to_svg(figure, "Test accuracy over the time of training")
