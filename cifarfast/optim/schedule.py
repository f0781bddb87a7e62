"""Learning rate as a function of the step."""

import math
from typing import Any

from ..recipes.recipe import Recipe


class LearningRate:
    """The recipe's learning rate at each step of a run of ``total_steps`` steps, ``steps_per_epoch`` an epoch.

    With t = step − warmup steps and T = total_steps − warmup steps, the factor on the peak rate is

    * constant: 1
    * cosine: f + (1 − f)·(1 + cos(π·t/T))/2, f = lr_final_ratio (Loshchilov & Hutter, "SGDR", 2017)
    * step: step_gamma to the number of step_milestones m with t ≥ m·T
    * one_cycle: half a cosine up from one_cycle_start_ratio to 1 at one_cycle_peak·T, then one down to lr_final_ratio
      (Smith & Topin, "Super-convergence", 2018)
    * plateau: plateau_factor to the number of times the loss did not improve by a relative 1e-4 for more than
      plateau_patience epochs, never below lr_final_ratio (as torch's ReduceLROnPlateau)

    and (step + 1)/(warmup steps) during the warm-up. Only plateau has state.
    """

    def __init__(self, recipe: Recipe, *, total_steps: int, steps_per_epoch: int) -> None:
        assert recipe.lr is not None, "the recipe must be resolved"
        self._peak = recipe.lr
        self._recipe = recipe
        self._warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), total_steps)
        self._steps = max(total_steps - self._warmup_steps, 1)
        self._plateau_factor, self._best_loss, self._bad_epochs = 1.0, math.inf, 0

    def at(self, step: int) -> float:
        """Learning rate of step ``step`` (0 is the first)."""
        if step < self._warmup_steps:
            return self._peak * (step + 1) / self._warmup_steps
        return self._peak * self._factor(step - self._warmup_steps)

    def _factor(self, t: int) -> float:
        recipe, progress = self._recipe, t / self._steps
        match recipe.schedule:
            case "constant":
                return 1.0
            case "cosine":
                return _half_cosine(1.0, recipe.lr_final_ratio, progress)
            case "step":
                return recipe.step_gamma ** sum(progress >= m for m in recipe.step_milestones)
            case "one_cycle":
                peak = recipe.one_cycle_peak
                if progress < peak:
                    return _half_cosine(recipe.one_cycle_start_ratio, 1.0, progress / peak)
                return _half_cosine(1.0, recipe.lr_final_ratio, (progress - peak) / (1 - peak))
            case "plateau":
                return max(self._plateau_factor, recipe.lr_final_ratio)

    def epoch_done(self, loss: float) -> None:
        """Tell the epoch's loss (validation when there is one, else training); only plateau uses it."""
        if loss < self._best_loss * (1 - 1e-4):
            self._best_loss, self._bad_epochs = loss, 0
            return
        self._bad_epochs += 1
        if self._bad_epochs > self._recipe.plateau_patience:
            self._plateau_factor *= self._recipe.plateau_factor
            self._bad_epochs = 0

    def state(self) -> dict[str, Any]:
        """The plateau schedule's state, for a checkpoint."""
        return {"factor": self._plateau_factor, "best_loss": self._best_loss, "bad_epochs": self._bad_epochs}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` returned."""
        self._plateau_factor, self._best_loss = state["factor"], state["best_loss"]
        self._bad_epochs = state["bad_epochs"]


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
