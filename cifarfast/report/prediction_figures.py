"""Figures of predictions: confusion matrix, precision-recall, ROC, calibration, per-class bars."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from sklearn.metrics import precision_recall_curve, roc_curve

from ..inference.scores import PredictionScores, calibration, log_softmax
from .figures import DIAGONAL, ERROR, INK, MUTED, PAPER, new_figure, new_panel, series_color, short, style, to_svg
from .load import LoadedRun

PANELS = 12  # classes that get a precision-recall and an ROC panel of their own: the hardest, where there are more
NUMBERED = 20  # classes up to which the confusion matrix shows its counts
NAMED = 64  # … and up to which it names them
_POINTS = 80


def confusion_figure(scores: PredictionScores) -> str:
    """Rows sum to 1: hits in one colour by recall, mistakes in another by their share of the worst one."""
    names = short([row.name for row in scores.per_class])
    counts = scores.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mistakes = shares * (1 - np.eye(len(names)))
    worst = max(mistakes.max(), 1e-9)
    strength = 0.62 * (np.diag(np.diag(shares)) + mistakes / worst)
    with style():
        side = 4.8 if len(names) <= NUMBERED else 5.6
        figure, axes = new_figure(side, side * 0.94)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        if len(names) <= NUMBERED:
            _cells(axes, counts, strength)
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(names)), names)
        else:
            _pixels(axes, strength)
            if len(names) <= NAMED:
                axes.set_xticks(range(len(names)), names, rotation=90, fontsize=5)
                axes.set_yticks(range(len(names)), names, fontsize=5)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="prediction", ylabel="label")
        axes.set_aspect("equal")
        return to_svg(figure, "Confusion matrix")


def _cells(axes: Axes, counts: np.ndarray, strength: np.ndarray) -> None:
    size = 8 if len(counts) <= 10 else 5.5
    for row, column in np.ndindex(*counts.shape):
        count, color = int(counts[row, column]), DIAGONAL if row == column else ERROR
        corner = (column - 0.46, row - 0.46)
        cell = Rectangle(corner, 0.92, 0.92, facecolor=color, alpha=float(strength[row, column]), lw=0)
        cell.set_in_layout(False)
        axes.add_artist(cell)
        if count:
            weight = "bold" if row == column else "normal"
            text = axes.text(
                column, row, str(count), ha="center", va="center_baseline", fontsize=size, color=INK, weight=weight
            )
            text.set_in_layout(False)  # inside the axes, so not worth measuring


def _pixels(axes: Axes, strength: np.ndarray) -> None:
    picture = np.zeros((*strength.shape, 4))
    # a picture cannot take its colours from the page: two that do on light and dark
    picture[..., :3] = to_rgb("#d55e00")
    np.einsum("iij->ij", picture)[:, :3] = to_rgb("#0072b2")
    picture[..., 3] = strength / 0.62
    scale = max(1, 600 // len(strength))
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    half = len(strength) - 0.5
    axes.imshow(picture, extent=(-0.5, half, half, -0.5), interpolation="none")


def class_bars(runs: Sequence[LoadedRun]) -> str:
    """F1 of every class for every run; for a single run precision, recall and F1."""
    classes = short(runs[0].classes, 16)
    if len(runs) == 1:
        rows = runs[0].scores.per_class
        bars = {name: [getattr(row, name.lower()) for row in rows] for name in ("Precision", "Recall", "F1")}
    else:
        bars = {run.name: [row.f1 for row in run.scores.per_class] for run in runs}
    with style():
        figure, axes = new_figure(4.8, 0.7 + len(classes) * max(0.2, 0.075 * len(bars) + 0.06))
        height = 0.8 / len(bars)
        for number, values in enumerate(bars.values()):
            places = np.arange(len(classes)) + (number - (len(bars) - 1) / 2) * height
            axes.barh(places, values, height * 0.9, color=series_color(number), linewidth=0)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_ylim(len(classes) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        lowest = min(min(values) for values in bars.values())
        axes.set_xlim(0 if lowest < 0.8 else np.floor(lowest * 10 - 0.5) / 10, 1)
        what = "Precision, recall and F1" if len(runs) == 1 else "F1"
        axes.set(title=f"{what} of each class")
        return to_svg(figure, f"{what} of each class")


THIN_BIN = 20
"""Images of a bin below which its accuracy says little: its point is faded."""


def calibration_figure(runs: Sequence[LoadedRun]) -> str:
    """Accuracy against confidence in 15 bins; on the diagonal the confidence is honest."""
    with style():
        figure, axes = new_figure(4.8, 3.6)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        for number, run in enumerate(runs):
            table = calibration(np.exp(log_softmax(run.logits)), run.labels)
            table, color = table[table[:, 0] > 0], series_color(number)
            axes.plot(table[:, 1], table[:, 2], "-", color=color, linewidth=1.3, alpha=0.35)
            for rows, alpha in ((table[table[:, 0] >= THIN_BIN], 1.0), (table[table[:, 0] < THIN_BIN], 0.25)):
                axes.plot(rows[:, 1], rows[:, 2], "o", color=color, markersize=3, alpha=alpha)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title="Calibration: accuracy by confidence")
        return to_svg(figure, "Calibration")


class Curves:
    """Precision-recall and ROC curves of runs, one class against the rest, thinned for drawing."""

    def __init__(self, runs: Sequence[LoadedRun]) -> None:
        self.runs = runs
        self.probabilities = [np.exp(log_softmax(run.logits)) for run in runs]
        self.labels = runs[0].labels

    def hardest(self) -> list[int]:
        """Classes that have a panel: those with samples, at most ``PANELS``, the lowest mean F1 first then."""
        f1 = np.mean([[row.f1 for row in run.scores.per_class] for run in self.runs], axis=0)
        support = np.array([row.support for row in self.runs[0].scores.per_class])
        present = np.flatnonzero((support > 0) & (support < len(self.labels)))
        return present.tolist() if len(present) <= PANELS else present[np.argsort(f1[present])][:PANELS].tolist()

    def class_panels(self, label: int) -> tuple[str, str]:
        """The two small figures of a class: precision-recall, ROC."""
        name = short([self.runs[0].classes[label]], 16)[0]
        truth = self.labels == label
        scores = [p[:, label] for p in self.probabilities]
        with style():
            return (
                self._precision_recall(truth, scores, (2.25, 2.0), name),
                self._roc(truth, scores, (2.25, 2.0), name),
            )

    def overall(self) -> tuple[str, str]:
        """The two figures over all classes: every (sample, class) pair counts as one decision."""
        one_hot = np.zeros_like(self.probabilities[0], dtype=bool)
        one_hot[np.arange(len(self.labels)), self.labels] = True
        scores = [p.ravel() for p in self.probabilities]
        with style():
            return (
                self._precision_recall(one_hot.ravel(), scores, (4.8, 3.6), "Precision by recall, all classes"),
                self._roc(one_hot.ravel(), scores, (4.8, 3.6), "ROC, all classes"),
            )

    def _precision_recall(
        self, truth: np.ndarray, scores: Sequence[np.ndarray], size: tuple[float, float], title: str
    ) -> str:
        large = size[0] > 3
        figure, axes = (new_figure if large else new_panel)(*size)
        for number, score in enumerate(scores):
            precision, recall, _ = precision_recall_curve(truth, score, drop_intermediate=True)
            best = int(f1_of(precision, recall).argmax())
            keep = _thin(recall[::-1], np.linspace(0, 1, _POINTS))
            axes.plot(recall[::-1][keep], precision[::-1][keep], color=series_color(number), linewidth=1.4)
            color = series_color(number)
            axes.plot(recall[best], precision[best], "o", ms=6 if large else 4.5, mfc=PAPER, mec=color, mew=1.5)
            if large:
                text = f"F1 {f1_of(precision, recall)[best]:.3f}"
                axes.plot([], [], "o", ms=6, mfc=PAPER, mec=color, mew=1.5, label=text)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.03), title=title)
        if large:
            axes.set(xlabel="recall", ylabel="precision")
            axes.legend(loc="best", title="maximum", title_fontsize=8, alignment="left")
        else:
            _small(axes)
        return to_svg(figure, f"Precision-recall curve, {title}")

    def _roc(self, truth: np.ndarray, scores: Sequence[np.ndarray], size: tuple[float, float], title: str) -> str:
        large = size[0] > 3
        figure, axes = (new_figure if large else new_panel)(*size)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        for number, score in enumerate(scores):
            false, true, _ = roc_curve(truth, score)
            keep = _thin(false, np.linspace(0, 1, _POINTS) ** 3)
            axes.plot(false[keep], true[keep], color=series_color(number), linewidth=1.4)
        axes.set(xlim=(-0.01, 1), ylim=(0, 1.03), title=title)
        if large:
            axes.set(xlabel="false positive rate", ylabel="true positive rate")
        else:
            _small(axes)
        return to_svg(figure, f"ROC curve, {title}")


def f1_of(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """F1 = 2 P R / (P + R), 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def best_f1(truth: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """The highest F1 over all thresholds, and its threshold (predict the class where score ≥ threshold)."""
    precision, recall, thresholds = precision_recall_curve(truth, score, drop_intermediate=True)
    f1 = f1_of(precision[:-1], recall[:-1])
    return float(f1.max()), float(thresholds[f1.argmax()])


def _small(axes: Axes) -> None:
    ticks = [0, 0.5, 1]
    axes.set_xticks(ticks, ["0", ".5", "1"])
    axes.set_yticks(ticks, ["0", ".5", "1"])


def _thin(rising: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Positions of a rising array nearest above the grid's values, ends included."""
    inner = np.searchsorted(rising, grid).clip(0, len(rising) - 1)
    return np.unique(np.concatenate([[0], inner, [len(rising) - 1]]))
