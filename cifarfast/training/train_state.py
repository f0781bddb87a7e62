"""The state of a training as plain numbers, and the line that is printed after an epoch."""

import math
from dataclasses import dataclass, field
from typing import Any

from ..runs.run_folder import Row


@dataclass
class TrainState:
    """How far a training is, as plain numbers. A checkpoint keeps all of them."""

    epoch: int = 0
    step_in_epoch: int = 0
    rows: list[Row] = field(default_factory=list)
    timing: list[Row] = field(default_factory=list)
    epoch_seconds: float = 0.0
    best_accuracy_percent: float = -1.0
    best_epoch: int = 0
    best_val_loss: float = math.inf
    best_val_epoch: int | None = 0
    """The epoch of that loss, whose weights are kept; 0 while none is, None in a run of a version that kept none."""
    epochs_without_gain: int = 0
    finished: bool = False
    nonfinite: list[dict[str, Any]] = field(default_factory=list)
    """Steps whose loss or gradient was not finite: their epoch and step, counted from 0, and the action taken."""

    def left_out(self, epoch: int) -> set[int]:
        """The steps of an epoch that a rollback leaves out."""
        return {bad["step"] for bad in self.nonfinite if bad["epoch"] == epoch and bad["action"] == "rollback"}


def describe(row: Row, timing: Row) -> str:
    """One line about an epoch, for the terminal."""
    parts = [f"epoch {row['epoch']:>3}"]
    for part in ("train", "val", "test"):
        if f"{part}_loss" in row:
            parts.append(f"{part} loss {row[f'{part}_loss']:.4f} accuracy {row[f'{part}_accuracy_percent']:.2f} %")
    parts.append(f"{timing['images_per_second']:,.0f} images/s")
    return " │ ".join(parts)
