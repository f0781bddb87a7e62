"""The contents of ``result.json``: the outcome of a finished run."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ..data import Dataset, Splits
from ..models.info import count_macs, meta_model
from ..recipes.build import input_size
from ..recipes.recipe import Recipe, differences, load_recipe, recipe_names
from ..runs.run_folder import Row
from .metrics import Scores
from .train_state import TrainState


def facts_before(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """The part of the outcome that is known before the first step. So nothing in it can fail after the last.

    ``macs`` is left out where torch cannot count them, and a line says so.
    """
    return {
        "changed_settings": changed_settings(recipe),
        "train_images": len(splits.train),
        "train_images_in_test": splits.train_images_in_test,
        **_size(recipe, splits.test),
    }


def _size(recipe: Recipe, data: Dataset) -> dict[str, int]:
    size = input_size(recipe, data)
    settings: dict[str, Any] = {"num_classes": data.num_classes, "in_channels": data.in_channels, "image_size": size}
    model = meta_model(recipe.arch, **settings, dropout=recipe.dropout)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    try:
        return {"parameters": parameters, "macs": count_macs(model, data.in_channels, size)}
    except Exception as error:  # whatever a model of another library, or torch's counter, raises
        line = " ".join(str(error).split())
        print(f"cifarfast: the MACs of {recipe.arch} are not counted: {type(error).__name__}: {line}", file=sys.stderr)
        return {"parameters": parameters}


def build_result(
    recipe: Recipe, splits: Splits, state: TrainState, test: Scores, facts: dict[str, Any]
) -> dict[str, Any]:
    """The outcome of a finished run; ``test`` scores the weights that are kept, ``facts`` is from ``facts_before``.

    ``kept_epoch`` is the epoch of these weights: the best on the validation part where they were kept, else the last.

    ``train_seconds`` is the time in training steps and checkpoints, evaluation excluded, over all parts of a run that
    was resumed.
    """
    kept = state.best_val_epoch or state.epoch
    best = (test.accuracy_percent, kept) if state.best_val_epoch else (state.best_accuracy_percent, state.best_epoch)
    seconds = sum(row["train_seconds"] for row in state.timing)
    result: dict[str, Any] = {
        "recipe": recipe.name,
        "changed_settings": facts["changed_settings"],
        "arch": recipe.arch,
        "dataset": recipe.dataset,
        "official": splits.official,
        "fingerprint": splits.fingerprint,
        "seed": recipe.seed,
        "epochs": state.epoch,
        "test_accuracy_percent": test.accuracy_percent,
        "test_top5_percent": test.top5_percent,
        "test_loss": test.loss,
        "best_test_accuracy_percent": best[0],
        "best_epoch": best[1],
        "kept_epoch": kept,
        "stopped_early": state.epoch < recipe.epochs,
        "train_seconds": seconds,
        "evaluation_seconds": sum(row["evaluation_seconds"] for row in state.timing),
        "images_per_second": sum(row["images"] for row in state.timing) / seconds,
        **{key: facts[key] for key in ("parameters", "macs", "train_images", "train_images_in_test") if key in facts},
        "device": recipe.device,
        "precision": recipe.precision,
    }
    if "val_accuracy_percent" in state.rows[kept - 1]:
        result["val_accuracy_percent"] = state.rows[kept - 1]["val_accuracy_percent"]
    if recipe.device == "cuda":
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return result


def best_row(rows: Sequence[Row]) -> Row:
    """The evaluated epoch with the lowest validation loss; without a validation part that with the best test accuracy.

    So the test set chooses nothing where there is a validation part.
    """
    tested = [row for row in rows if "test_loss" in row]
    if "val_loss" in tested[-1]:
        return min(tested, key=lambda row: row["val_loss"])
    return max(tested, key=lambda row: row["test_accuracy_percent"])


def changed_settings(recipe: Recipe) -> list[str]:
    """How a resolved recipe differs from the packaged one whose name it has, as ``setting: ours ≠ the recipe's``.

    Seed, device and precision are left out: they have entries of their own.
    """
    if recipe.name not in recipe_names() or recipe.device == "auto":
        return []
    packaged = load_recipe(recipe.name)[0].resolved(recipe.device)
    return differences(recipe, dataclasses.replace(packaged, seed=recipe.seed, precision=recipe.precision))
