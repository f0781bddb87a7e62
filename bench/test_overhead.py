"""The trainer beside a bare PyTorch loop over the same tensors: an epoch of one, an epoch of the other, to the end.

The bare loop is what one would write by hand for the recipe: images as one normalised fp32 tensor, a permutation,
slices, model, loss, ``backward``, ``step``. Both train the same model from the same weights in the same process.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.measure import quantiles
from cifarfast.data import load_dataset
from cifarfast.recipes.build import build_model
from cifarfast.recipes.recipe import load_recipe
from cifarfast.runs.run_folder import RunFolder
from cifarfast.training.engine import Trainer

ALLOWED_RATIO = 1.15
NEEDED_ACCURACY_PERCENT = 59.0


class BareLoop:
    """The recipe's training as a loop written by hand; ``epoch`` trains one epoch and returns its seconds."""

    def __init__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, batch: int, lr: float) -> None:
        self.model, self.images, self.labels, self.batch = model, images, labels, batch
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def epoch(self) -> float:
        started = time.perf_counter()
        self.model.train()
        order = torch.randperm(len(self.images))
        for first in range(0, len(order), self.batch):
            indices = order[first : first + self.batch]
            loss = F.cross_entropy(self.model(self.images[indices]), self.labels[indices])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return time.perf_counter() - started


@pytest.mark.parametrize("name", ["b01_lenet", "b02_lenet_he"])
def test_overhead(name: str, real_data: Path, tmp_path: Path, record: Callable[[str, dict[str, Any]], None]) -> None:
    recipe = load_recipe(name)[0].resolved("cpu")
    splits = load_dataset(recipe.dataset, data_dir=real_data)
    run = RunFolder(tmp_path / "run")
    trainer = Trainer(recipe, splits, run)
    pixels = splits.train.images.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (trainer.mean, trainer.std))
    images = ((pixels - mean) / std).contiguous()
    assert recipe.lr is not None
    bare = BareLoop(
        build_model(recipe, splits.train).to(memory_format=torch.contiguous_format),
        images,
        splits.train.labels,
        batch=recipe.batch_size,
        lr=recipe.lr,
    )
    ours: list[float] = []
    theirs: list[float] = []

    def after_epoch(row: dict[str, Any], timing: dict[str, Any]) -> None:
        ours.append(timing["train_seconds"])
        theirs.append(bare.epoch())

    with run.writing(resume=False):
        result = trainer.fit(after_epoch)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figures = {
        "recipe": name,
        "data": {"dataset": recipe.dataset, "official": splits.official, "fingerprint": splits.fingerprint},
        "epochs": len(ours),
        "seconds": sum(ours),
        "bare_loop_seconds": sum(theirs),
        "ratio_of_an_epoch": quantiles(ratios),
        "test_accuracy_percent": result["test_accuracy_percent"],
        "best_test_accuracy_percent": result["best_test_accuracy_percent"],
    }
    record(f"overhead_{name}", figures)
    print(figures)
    assert result["best_test_accuracy_percent"] >= NEEDED_ACCURACY_PERCENT
    assert sum(ours) / sum(theirs) <= ALLOWED_RATIO
    assert statistics.median(ratios) <= ALLOWED_RATIO  # other programs disturb single epochs, of either side
