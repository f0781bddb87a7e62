"""The reading of learning curves against labelled ones: made by models of training, and of real runs."""

import csv
from pathlib import Path

import pytest
from generated_curves import FAMILIES, Labelled, Rows, halves, make, surer_of_mistakes

from cifarfast.recipes.recipe import Recipe
from cifarfast.report.curve_reader import read_curves

CURVES = Path(__file__).parent / "curves"

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


def overfitted() -> Rows:
    return make(FAMILIES.index(surer_of_mistakes), 0).rows


def test_the_validation_part_goes_before_the_test_part() -> None:
    made = [row | {"test_loss": row["train_loss"]} for row in overfitted()]
    assert (read_curves(made, 10).kind, read_curves(made, 10).part) == ("overfitting", "validation")


@pytest.mark.parametrize("epochs", [0, 3])
def test_too_few_epochs_say_nothing(epochs: int) -> None:
    assert read_curves(overfitted()[:epochs], 10).kind == "too short"


def test_advice_leaves_out_what_the_run_does_already() -> None:
    made = overfitted()
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
        assert reading.headline
        assert reading.explanation
        assert reading.advice
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
