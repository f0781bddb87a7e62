"""The learning-rate schedules against torch's own."""

import math
import random

import pytest
import torch
from torch.optim import lr_scheduler

from cifarfast.optim import LearningRate
from cifarfast.recipes.recipe import Recipe


def ours(steps: int, **settings: object) -> LearningRate:
    recipe = Recipe(**settings).resolved("cpu")  # type: ignore[arg-type]
    return LearningRate(recipe, total_steps=steps, steps_per_epoch=10)


def torchs(make: object, steps: int, lr: float = 0.1) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    schedule = ours(30, schedule="constant", lr=0.3)
    assert [schedule.at(step) for step in range(30)] == [0.3] * 30


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine(final: float) -> None:
    schedule = ours(50, schedule="cosine", lr=0.1, lr_final_ratio=final)
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, 50, eta_min=0.1 * final), 50)
    assert [schedule.at(step) for step in range(50)] == pytest.approx(expected)


def test_step() -> None:
    schedule = ours(50, schedule="step", lr=0.1, step_milestones=(0.3, 0.6, 0.8), step_gamma=0.2)
    expected = torchs(lambda o: lr_scheduler.MultiStepLR(o, [15, 30, 40], gamma=0.2), 50)
    assert [schedule.at(step) for step in range(50)] == pytest.approx(expected)


def test_one_cycle() -> None:
    # torch ends its two phases at pct_start·total − 1 and total − 1: one step before ours
    schedule = ours(100, schedule="one_cycle", lr=0.1, one_cycle_peak=0.3)
    expected = torchs(
        lambda o: lr_scheduler.OneCycleLR(
            o, 0.1, total_steps=101, pct_start=31 / 101, div_factor=25, final_div_factor=1e12
        ),
        100,
    )
    assert [schedule.at(step) for step in range(100)] == pytest.approx(expected, abs=1e-9)


def test_plateau() -> None:
    draws = random.Random(0)
    losses = [1 / (1 + step / 10) + 0.1 * draws.random() for step in range(200)]
    schedule = ours(2000, schedule="plateau", lr=0.1, plateau_factor=0.5, plateau_patience=3, lr_final_ratio=0.01)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3, min_lr=0.001, eps=0)
    for epoch, loss in enumerate(losses):
        assert schedule.at(10 * epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        expected.step(loss)
        schedule.epoch_done(loss)
    assert schedule.at(1999) < 0.01


def test_warm_up_comes_before_the_schedule() -> None:
    schedule = ours(50, schedule="cosine", lr=0.1, warmup_epochs=2)
    assert [schedule.at(step) for step in range(20)] == pytest.approx([0.1 * (step + 1) / 20 for step in range(20)])
    assert schedule.at(20) == pytest.approx(0.1)
    assert schedule.at(35) == pytest.approx(0.05)


def test_state_goes_there_and_back() -> None:
    schedule = ours(50, schedule="plateau", lr=0.1, plateau_patience=0)
    for loss in (1.0, 2.0, 0.5, 0.6):
        schedule.epoch_done(loss)
    again = ours(50, schedule="plateau", lr=0.1, plateau_patience=0)
    again.load(schedule.state())
    assert again.at(0) == schedule.at(0) == pytest.approx(0.025)
    assert again.state() == schedule.state()
    assert math.isinf(ours(50).state()["best_loss"])
