"""The reading of learning curves against labelled ones: shapes made by rule, and real runs."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from generated_curves import FAMILIES, Labelled, halves, make

from cifarfast.recipes.recipe import Recipe
from cifarfast.report.curve_reader import read_curves

CURVES = Path(__file__).parent / "curves"
Rows = list[dict[str, float]]

# metrics.csv of runs on part of a CIFAR-10 copy (quickstart: digits), and what somebody who looks at their curves says
REAL: dict[str, tuple[str, int | None]] = {
    "a1_linear": ("unstable", None),
    "a2_mlp": ("underfitting", None),
    "a3_lenet5": ("overfitting", 19),
    "b01_lenet": ("still improving", None),
    "b02_lenet_he": ("overfitting", 18),
    "c1_tutorial": ("unstable", None),
    "quickstart": ("fine", None),
    # on all of the copy; the epoch is the lowest point of a fourth-degree polynomial through the validation losses
    "a3_lenet5_seed42": ("overfitting", 17),
    "a3_lenet5_seed43": ("overfitting", 16),
    "a3_lenet5_seed44": ("overfitting", 16),
}


def rows(
    train: Callable[[float], float],
    held_out: Callable[[float], float],
    *,
    epochs: int = 40,
    noise: float = 0.01,
    lr: Callable[[float], float] = lambda x: 0.1,
    part: str = "val",
) -> Rows:
    """Curves as functions of the share x of the training that is done."""
    draws = np.random.default_rng(0).normal(size=(epochs, 2)) * noise
    made = []
    for i in range(epochs):
        x = (i + 1) / epochs
        row = {"epoch": i + 1, "lr": lr(x), "train_loss": train(x) + draws[i, 0] / 4}
        made.append(row | {f"{part}_loss": held_out(x) + draws[i, 1], f"{part}_accuracy_percent": 50 + 10 * x})
    return made


def falling(start: float, end: float, speed: float) -> Callable[[float], float]:
    return lambda x: end + (start - end) * math.exp(-speed * x)


def u_shape(lowest: float, at: float, rise: float) -> Callable[[float], float]:
    return lambda x: (
        lowest + (2.3 - lowest) * (1 - x / at) ** 1.5 if x < at else lowest + rise * ((x - at) / (1 - at)) ** 1.2
    )


def cosine(x: float) -> float:
    return 0.05 * (1 + math.cos(math.pi * x))


SHAPES: dict[str, tuple[Rows, str, int | None]] = {
    "overfits early": (rows(falling(2.3, 0.01, 8), u_shape(1.0, 0.2, 1.5)), "overfitting", 8),
    "overfits late": (rows(falling(2.3, 0.1, 5), u_shape(0.8, 0.75, 0.2)), "overfitting", 30),
    "overfits, long": (rows(falling(2.3, 0.0, 9), u_shape(0.5, 0.3, 1.0), epochs=150, noise=0.005), "overfitting", 45),
    "overfits, seen on the test set": (
        rows(falling(2.3, 0.05, 6), u_shape(1.2, 0.5, 0.5), epochs=20, part="test"),
        "overfitting",
        10,
    ),
    "fine with a gap": (rows(falling(2.3, 0.02, 8), falling(2.3, 0.3, 12), lr=cosine), "fine", None),
    "fine without a gap": (rows(falling(2.3, 0.25, 12), falling(2.3, 0.3, 12)), "fine", None),
    "fine, noisy": (rows(falling(2.3, 0.3, 12), falling(2.3, 0.5, 12), noise=0.015, epochs=80), "fine", None),
    "underfits": (rows(falling(2.3, 1.6, 15), falling(2.3, 1.65, 15)), "underfitting", None),
    "underfits, with dropout": (rows(falling(2.3, 1.8, 15), falling(2.3, 1.5, 15)), "underfitting", None),
    "still improving": (rows(falling(2.3, 0.2, 1), falling(2.3, 0.3, 1)), "still improving", 40),
    "still improving, short": (rows(falling(2.3, 0.5, 2), falling(2.3, 0.6, 2), epochs=8), "still improving", 8),
    "a slow start with a high rate": (rows(falling(2.3, 0.8, 2), falling(2.2, 0.8, 2)), "still improving", 40),
    "not learning": (rows(falling(2.4, 2.3, 9), falling(2.4, 2.305, 9), noise=0.002), "not learning", None),
    "jumps": (rows(falling(2.3, 0.8, 5), falling(2.3, 1.0, 5), noise=0.3), "unstable", None),
    "too short": (rows(falling(2.3, 0.8, 5), falling(2.3, 1.0, 5), epochs=3), "too short", None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_made_by_rule(name: str) -> None:
    made, kind, epoch = SHAPES[name]
    reading = read_curves(made, 10)
    assert reading.kind == kind, reading
    assert epoch is None or abs(reading.epoch - epoch) <= 3
    assert reading.headline
    assert reading.explanation
    assert reading.advice


@pytest.mark.parametrize("name", REAL)
def test_real_runs(name: str) -> None:
    with (CURVES / f"{name}.csv").open() as file:
        read = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    kind, epoch = REAL[name]
    reading = read_curves(read, 10)
    assert reading.kind == kind, reading
    if epoch is not None:
        assert abs(reading.epoch - epoch) <= 3
        assert f"from epoch {reading.epoch}" in reading.headline


def test_the_validation_part_goes_before_the_test_part() -> None:
    made = rows(falling(2.3, 0.01, 8), u_shape(1.0, 0.2, 1.5))
    for row in made:
        row["test_loss"] = row["train_loss"]
    assert (read_curves(made, 10).kind, read_curves(made, 10).part) == ("overfitting", "validation")


def test_epochs_that_were_not_evaluated_count_for_nothing() -> None:
    made = rows(falling(2.3, 0.01, 8), u_shape(1.0, 0.25, 1.5), part="test")
    for row in made:
        if row["epoch"] % 5:
            del row["test_loss"]
    assert abs(read_curves(made, 10).epoch - 10) <= 3
    assert read_curves([], 10).kind == "too short"


def test_advice_leaves_out_what_the_run_does_already() -> None:
    made = SHAPES["overfits early"][0]
    bare = Recipe(crop_padding=0, flip="none", weight_decay=0.0)
    rich = Recipe(weight_decay=5e-4, label_smoothing=0.1, dropout=0.3, cutmix_alpha=1.0)
    assert any("--flip" in tip for tip in read_curves(made, 10, bare).advice)
    assert len(read_curves(made, 10, rich).advice) == 1


# curves made by models of training


def mistakes(curves: list[Labelled]) -> tuple[list[str], list[str]]:
    """Curves whose kind is read wrong, and those whose epoch is more than 3 off."""
    kinds, epochs = [], []
    for curve in curves:
        reading = read_curves(curve.rows, curve.classes)
        if reading.kind != curve.kind:
            kinds.append(curve.name)
        if curve.epoch is not None and (reading.kind != curve.kind or abs(reading.epoch - curve.epoch) > 3):
            epochs.append(curve.name)
    return kinds, epochs


def test_generated_curves() -> None:
    """All of the half that the reader's rules were chosen by; 19 of 20 kinds and 5 of 6 epochs of the other."""
    chosen_by, held_out = halves()
    assert [sum(curve.epoch is not None for curve in half) for half in (chosen_by, held_out)] == [6, 6]
    assert mistakes(chosen_by) == ([], [])
    # the one-cycle run ends on a chance drop, the other's minimum is flat
    assert mistakes(held_out) == (["one_cycle_bump 1"], ["mild 1"])


def test_many_more_draws_of_the_same_families() -> None:
    """596 of 600 kinds and 170 of 180 epochs, of curves that nothing was chosen by."""
    curves = [make(number, 1000 + draw) for draw in range(30) for number in range(len(FAMILIES))]
    kinds, epochs = mistakes(curves)
    assert len(kinds) <= 4
    assert len(epochs) <= 10
