"""Export the model of a run, a checkpoint or an ensemble into a file that is checked on images of its data set."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .._version import __version__
from ..ensembling import EnsembleClassifier, load_model
from ..errors import UserError
from ..inference.classifier import ImageClassifier
from ..recipes.build import load_recipe_data
from ..runtime.files import user_path
from .graph import ExportModule
from .write import FORMATS, Exported, check_packages, write_export

CHECKED_IMAGES = 64


def export(
    source: str | Path,
    *,
    format: Literal["onnx", "torch-export"] = "onnx",
    input: Literal["uint8", "unit", "normalized"] = "uint8",
    fold_bn: bool = False,
    weights: Literal["auto", "model", "ema"] = "auto",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> tuple[Exported, str]:
    """Export a run's, checkpoint's or ensemble's model; the settings are those of the command line.

    Returns:
        what was written, and which images it was checked on.

    Raises:
        UserError: nothing to export at ``source``, packages are missing, the model cannot be traced, or the file does
            not give the model's logits; then there is no file.
    """
    check_packages(format)
    model = load_model(source, weights=weights, device="cpu")
    images, described = _images(model, data_dir)
    module = ExportModule(model, input)
    path = user_path(out) if out is not None else _default_path(user_path(source), FORMATS[format])
    written = write_export(
        module, path, file_format=format, fold=fold_bn, metadata=_metadata(model, module), images=images
    )
    return written, described


def _default_path(source: Path, suffix: str) -> Path:
    """``model.<suffix>`` in the run folder, which for a checkpoint is two levels up."""
    folder = next((f for f in (source, *source.resolve().parents[:2]) if (f / "config.toml").exists()), Path())
    return folder / f"model{suffix}"


def _metadata(model: ImageClassifier | EnsembleClassifier, module: ExportModule) -> dict[str, str]:
    values = {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "input": module.shape,
        "output": "logits float32 [batch, classes]; their softmax are probabilities",
        "cifarfast": __version__,
    }
    if isinstance(model, EnsembleClassifier):
        dataset = model.recipe.dataset.partition(":")[0]
        return values | {"arch": f"ensemble of {len(model.members)}", "dataset": dataset}
    return values | {
        "arch": model.recipe.arch,
        "recipe": model.recipe.name,
        "dataset": model.recipe.dataset.partition(":")[0],
        "mean": json.dumps(model.preprocess.mean),
        "std": json.dumps(model.preprocess.std),
    }


def _images(model: ImageClassifier | EnsembleClassifier, data_dir: str | Path | None) -> tuple[Tensor, str]:
    """Images for the check: of the data set's test part, or made-up ones where the data set is not there."""
    recipe, shape = model.recipe, (model.image_size, model.image_size, model.in_channels)
    try:
        splits = load_recipe_data(recipe, data_dir=data_dir, download=False, whole=True)
        images = splits.test.images[:CHECKED_IMAGES]
        if images.shape[1:] == shape and len(images) >= 2:
            return images, f"{len(images)} test images of {splits.name}"
    except UserError:
        pass
    drawn = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *shape), dtype=np.uint8)
    return torch.from_numpy(drawn), f"{CHECKED_IMAGES} made-up images, as {recipe.dataset} is not here"
