"""The contents of ``result.json``: the outcome of a finished run."""

import dataclasses
from typing import Any

import torch

from ..data import Splits
from ..models import model_info
from ..recipes.build import input_size
from ..recipes.recipe import Recipe, differences, load_recipe, recipe_names
from .metrics import Scores
from .train_state import TrainState


def build_result(recipe: Recipe, splits: Splits, state: TrainState, test: Scores) -> dict[str, Any]:
    """The outcome of a finished run; ``test`` scores the last epoch's weights.

    ``train_seconds`` is the time in training steps and checkpoints, evaluation excluded, over all parts of a run that
    was resumed.
    """
    data, seconds = splits.test, sum(row["train_seconds"] for row in state.timing)
    info = model_info(
        recipe.arch,
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        image_size=input_size(recipe, data),
        dropout=recipe.dropout,
    )
    result = {
        "recipe": recipe.name,
        "changed_settings": changed_settings(recipe),
        "arch": recipe.arch,
        "dataset": recipe.dataset,
        "official": splits.official,
        "fingerprint": splits.fingerprint,
        "seed": recipe.seed,
        "epochs": state.epoch,
        "test_accuracy_percent": test.accuracy_percent,
        "test_top5_percent": test.top5_percent,
        "test_loss": test.loss,
        "best_test_accuracy_percent": state.best_accuracy_percent,
        "best_epoch": state.best_epoch,
        "train_seconds": seconds,
        "evaluation_seconds": sum(row["evaluation_seconds"] for row in state.timing),
        "images_per_second": sum(row["images"] for row in state.timing) / seconds,
        "parameters": info.parameters,
        "macs": info.macs,
        "device": recipe.device,
        "precision": recipe.precision,
    }
    if "val_accuracy_percent" in state.rows[-1]:
        result["val_accuracy_percent"] = state.rows[-1]["val_accuracy_percent"]
    if recipe.device == "cuda":
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return result


def changed_settings(recipe: Recipe) -> list[str]:
    """How a resolved recipe differs from the packaged one whose name it has, as ``setting: ours ≠ the recipe's``.

    Seed, device and precision are left out: they have entries of their own.
    """
    if recipe.name not in recipe_names() or recipe.device == "auto":
        return []
    packaged = load_recipe(recipe.name)[0].resolved(recipe.device)
    return differences(recipe, dataclasses.replace(packaged, seed=recipe.seed, precision=recipe.precision))
