"""A plain-language reading of learning curves: what they say about a run, and what to try next.

It looks at the held-out loss h (validation where there is one, else test) and the training loss t, both smoothed, with
C classes and ln C, the loss of guessing, as the yardstick. In this order:

* **too short**: fewer than 4 evaluated epochs;
* **not learning**: h never came below 0.97 ln C;
* **unstable**: h jumps by 5 %, and 0.005 ln C, from epoch to epoch, even at the end;
* **overfitting** from epoch k, where h is lowest: since then h rose by 3.5 % or more and by more than its
  noise, while t fell;
* **still improving**: the mean of h over the last 20 % of the epochs is 2 % or more below that of the 20 % before, and
  by more than noise would do. Where the learning rate has run out, 5 % and 5 % of the epochs, and the drop must not be
  dying out, at least three quarters of the one before: what large steps had cost comes back with the last of the rate;
* **underfitting**: h has settled above 0.35 ln C and t is hardly better;
* **fine**.

To find k, h is smoothed no more than its noise asks for: a wide mean would move the minimum away from the steeper side,
such as a step of the learning rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..recipes.recipe import Recipe

Kind = Literal["too short", "not learning", "unstable", "overfitting", "still improving", "underfitting", "fine"]

_SHORT = 4
_RISE, _DROP, _JUMP, _UNDIMINISHED = 0.035, 0.02, 0.05, 0.75
_NOISE_LEFT = 0.05  # noise of the curve that the minimum is sought on, as a share of the rise since
_HIGH_LOSS, _SMALL_GAP = 0.35, 0.15


@dataclass(frozen=True)
class Reading:
    """What the curves say.

    ``epoch`` is that of the lowest held-out loss but for noise, from which on an overfitting run overfits; ``part`` is
    the held-out part that was read, "validation" or "test".
    """

    kind: Kind
    epoch: int
    part: str
    headline: str
    explanation: str
    advice: tuple[str, ...]


@dataclass(frozen=True)
class _Curves:
    epochs: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    accuracy: np.ndarray
    part: str
    annealed: bool
    best: int


def read_curves(rows: Sequence[dict[str, float]], num_classes: int, recipe: Recipe | None = None) -> Reading:
    """Read the rows of ``metrics.csv``.

    Args:
        rows: one an epoch; those without an evaluation count for nothing.
        num_classes: of the data set.
        recipe: the run's settings; advice then leaves out what they already do.
    """
    part = "val" if any("val_loss" in row for row in rows) else "test"
    rows = [row for row in rows if f"{part}_loss" in row and "train_loss" in row]
    name = {"val": "validation", "test": "test"}[part]
    if len(rows) < _SHORT:
        epoch = int(min(rows, key=lambda row: row[f"{part}_loss"])["epoch"]) if rows else 0
        text = (
            f"{len(rows)} evaluated epoch{'s' if len(rows) != 1 else ''} say nothing about the course of the training."
        )
        return Reading("too short", epoch, name, "Too short to tell", text, ("Train for more epochs.",))
    raw = np.array([row[f"{part}_loss"] for row in rows])
    rates = [row["lr"] for row in rows if "lr" in row]
    curves = _Curves(
        epochs=np.array([int(row["epoch"]) for row in rows]),
        train=_smooth(np.array([row["train_loss"] for row in rows])),
        held_out=_smooth(raw),
        best=_lowest(raw),
        accuracy=np.array([row.get(f"{part}_accuracy_percent", math.nan) for row in rows]),
        part=name,
        annealed=bool(rates) and rates[-1] <= 0.1 * max(rates),
    )
    kind = _classify(curves, raw, math.log(num_classes))
    headline, explanation = _describe(kind, curves)
    epoch = int(curves.epochs[curves.best])
    return Reading(kind, epoch, name, headline, explanation, _advice(kind, epoch, curves, recipe))


def _most_smoothing(count: int) -> int:
    """Half the width of a mean over up to a fifteenth of the curve to either side."""
    return 0 if count < 8 else max(1, min(count // 15, 10))


def _weights(half: int) -> np.ndarray:
    return np.concatenate([np.arange(1, half + 2), np.arange(half, 0, -1)]).astype(float)


def _smooth(values: np.ndarray, half: int | None = None) -> np.ndarray:
    """A centred mean with triangular weights over ``half`` values to either side."""
    count = len(values)
    half = _most_smoothing(count) if half is None else half
    total, norm = np.convolve(values, _weights(half)), np.convolve(np.ones(count), _weights(half))
    return (total / norm)[half : half + count]


def _lowest(values: np.ndarray) -> int:
    """Position of the minimum of the curve, smoothed just so far that little noise is left beside the rise since."""
    smooth, noise = _smooth(values), _noise(values)
    rise = float(smooth[-1] - smooth.min())
    for half in range(_most_smoothing(len(values)) + 1):
        share = _weights(half) / _weights(half).sum()
        if noise * math.sqrt(float((share**2).sum())) <= _NOISE_LEFT * rise:
            return int(_smooth(values, half).argmin())
    return int(smooth.argmin())


def _noise(values: np.ndarray) -> float:
    """Standard deviation of the jumps about a smooth course in the later half: from second differences, robustly."""
    bends = np.abs(np.diff(values[len(values) // 2 - 1 :], n=2))
    return float(np.median(bends)) / (0.6745 * math.sqrt(6)) if len(bends) else 0.0


def _classify(curves: _Curves, raw: np.ndarray, guessing: float) -> Kind:
    held_out, train, best, noise = curves.held_out, curves.train, curves.best, _noise(raw)
    count, end = len(held_out), float(held_out[-1])
    lowest = float(held_out.min())
    if lowest > 0.97 * guessing:
        return "not learning"
    if noise > max(_JUMP * end, 0.005 * guessing):
        return "unstable"
    rise = end - lowest
    if rise >= max(_RISE * lowest, 2 * noise, 0.005 * guessing) and train[-1] < train[best] and count - 1 - best >= 2:
        return "overfitting"
    if _improves(raw, end, noise, guessing, annealed=curves.annealed):
        return "still improving"
    if end > _HIGH_LOSS * guessing and end - float(train[-1]) <= _SMALL_GAP * end:
        return "underfitting"
    return "fine"


def _improves(raw: np.ndarray, end: float, noise: float, guessing: float, *, annealed: bool) -> bool:
    """Whether the held-out loss is still falling at the end."""
    count = len(raw)
    window = max(1, round(0.05 * count)) if annealed else max(2, round(0.2 * count))
    means = [float(raw[count - (i + 1) * window : count - i * window].mean()) for i in range(min(3, count // window))]
    drop = means[1] - means[0]
    if drop < max(_DROP * end, noise * math.sqrt(2 / window), 0.005 * guessing):
        return False
    return not annealed or len(means) < 3 or drop >= _UNDIMINISHED * (means[2] - means[1])


def _describe(kind: Kind, curves: _Curves) -> tuple[str, str]:
    best, part = curves.best, curves.part
    epoch, last = int(curves.epochs[best]), int(curves.epochs[-1])
    lowest, end = curves.held_out[best], curves.held_out[-1]
    train_then, train_end = curves.train[best], curves.train[-1]
    reached = f"{curves.accuracy[-1]:.1f} %"
    if kind == "not learning":
        return "Not learning", (
            f"The {part} loss stays at {lowest:.2f} or above, no better than guessing. The network has learned nothing "
            "that holds for other images."
        )
    if kind == "unstable":
        return "Unstable", (
            f"The {part} loss jumps up and down from epoch to epoch (now {end:.2f}, accuracy {reached}), so where it "
            "ends is a matter of luck. The steps are too large for this network."
        )
    if kind == "overfitting":
        change = curves.accuracy[-1] - curves.accuracy[best]
        so = (
            f"The accuracy still rose by {change:.1f} points since, so the predictions got surer of their mistakes "
            "rather than worse."
            if change > 1
            else f"The accuracy has not gained by it (now {reached})."
        )
        return f"Overfitting from epoch {epoch}", (
            f"The {part} loss is lowest at epoch {epoch} ({lowest:.2f}) and has risen to {end:.2f} by epoch {last}, "
            f"while the training loss went on falling ({train_then:.2f} → {train_end:.2f}): from there on the network "
            f"learns its training images by heart. {so}"
        )
    if kind == "still improving":
        return "Still improving", (
            f"The {part} loss was still falling when training stopped at epoch {last} "
            f"(now {end:.2f}, accuracy {reached})."
        )
    if kind == "underfitting":
        return "Underfitting", (
            f"The {part} loss has settled at {end:.2f} (accuracy {reached}) and the training loss is hardly better "
            f"({train_end:.2f}): the network is too small, too constrained or too short of time for these images."
        )
    gap = (
        f" The training loss is far lower ({train_end:.2f}), so there is room for more regularisation."
        if train_end < 0.3 * end
        else ""
    )
    return "Fine", (
        f"The {part} loss came down to {lowest:.2f} and stayed near it (accuracy {reached}): neither overfitting nor "
        f"underfitting shows.{gap}"
    )


def _advice(kind: Kind, epoch: int, curves: _Curves, recipe: Recipe | None) -> tuple[str, ...]:
    settings = recipe or Recipe(crop_padding=0, flip="none", weight_decay=0.0)
    if kind == "not learning":
        return (
            "Lower the learning rate (--lr), or add --warmup-epochs 1.",
            "Check that labels and images belong together.",
        )
    if kind == "unstable":
        lower = "" if settings.lr is None else f": --lr {settings.lr / 5:g}"
        return (
            f"Lower the learning rate{lower}.",
            "Or let it fall: --schedule cosine; or average the weights: --ema-decay 0.999.",
        )
    if kind == "overfitting":
        return (*_regularisers(settings), _stop_at(epoch, curves.part))
    if kind == "still improving":
        more = f"Train longer: --epochs {2 * int(curves.epochs[-1])}."
        if curves.annealed:
            return (f"{more} The learning rate has run out, so start anew with the longer schedule.",)
        return (
            more,
            "Or try a higher learning rate (--lr)." if settings.schedule == "constant" else "Or a higher --lr.",
        )
    if kind == "underfitting":
        tips = ["A larger network (`cifarfast models` lists them).", "A higher learning rate, or more epochs."]
        if settings.dropout or (settings.weight_decay or 0) > 1e-3:
            tips.append("Less dropout or weight decay.")
        return tuple(tips)
    if curves.train[-1] < 0.3 * curves.held_out[-1]:
        return tuple(_regularisers(settings))
    return ("For more accuracy: a larger network, or more epochs with more augmentation.",)


def _regularisers(settings: Recipe) -> list[str]:
    """What holds against overfitting and is not switched on yet."""
    tips = []
    if not settings.crop_padding and settings.flip == "none":
        tips.append("Augment the training images: --crop-padding 4 --flip random.")
    elif not (settings.cutmix_alpha or settings.mixup_alpha or settings.cutout):
        tips.append("Stronger augmentation: --cutout 8 or --cutmix-alpha 1.")
    if not settings.weight_decay:
        tips.append("Weight decay: --weight-decay 5e-4.")
    if not settings.label_smoothing:
        tips.append("Label smoothing: --label-smoothing 0.1.")
    if not settings.dropout:
        tips.append("More dropout, where the network has any (--dropout 0.5).")
    return tips


def _stop_at(epoch: int, part: str) -> str:
    if part == "validation":
        return f"Stop earlier: --early-stopping-patience 5 would have stopped soon after epoch {epoch}."
    return "Stop earlier by a validation part: --val-split 0.1 --early-stopping-patience 5 (never by the test set)."
