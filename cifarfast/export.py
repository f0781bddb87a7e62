"""``cifarfast export RUN``: a trained model as ONNX or as a torch.export program, checked against the model."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from ._version import __version__
from .classifier import ImageClassifier
from .data import load_dataset
from .ensembling import EnsembleClassifier, load_model
from .errors import UserError
from .exporting import FORMATS, Exported, ExportModule, write_export
from .exporting.write import check_packages
from .flags import parse_flags, run_main

CHECKED_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a trained model as ONNX or as a torch.export program, for a batch of any size, normalisation included.

    The file is read back and its logits are compared with the model's on images of the data set before it is kept.
    Class names are in its metadata.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CKPT")]
    """Run folder (its newest checkpoint, or an ensemble), or a checkpoint in its checkpoints/."""
    format: Literal["onnx", "torch-export"] = "onnx"
    """onnx (opset 18; needs the packages of cifarfast[export]) or torch-export (.pt2, for torch.export.load)."""
    input: Literal["uint8", "unit", "normalized"] = "uint8"
    """What the file takes: uint8 [N, H, W, C] as images are stored; unit: float32 [N, C, H, W] in 0…1; normalized:
    float32 [N, C, H, W] normalised as in training, whose mean and std are in the metadata."""
    fold_bn: bool = False
    """Fold batch norms into the convolution or linear layer before them, where there is one."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Which weights; auto takes the EMA when the run keeps one."""
    out: str | None = None
    """The file; default: model.onnx or model.pt2 in the run folder."""
    data_dir: str | None = None
    """Folder that holds the data sets, for the images of the check; default: as in training."""


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
    path = Path(out) if out is not None else _default_path(Path(source), FORMATS[format])
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
        splits = load_dataset(
            recipe.dataset, data_dir=data_dir or recipe.data_dir, image_size=recipe.image_size, download=False
        )
        images = splits.test.images[:CHECKED_IMAGES]
        if images.shape[1:] == shape and len(images) >= 2:
            return images, f"{len(images)} test images of {splits.name}"
    except UserError:
        pass
    drawn = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *shape), dtype=np.uint8)
    return torch.from_numpy(drawn), f"{CHECKED_IMAGES} made-up images, as {recipe.dataset} is not here"


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    options = vars(parse_flags(ExportOptions, arguments, prog="cifarfast export"))
    written, images = export(options.pop("source"), **options)
    print(f"{written.path}: {written.path.stat().st_size / 1e6:.1f} MB")
    print(f"input images: {written.shape}; output logits: float32 [batch, classes]")
    if written.folded:
        kept = f", {written.folded.kept} kept (no convolution right before)" if written.folded.kept else ""
        print(f"batch norms: {written.folded.folded} folded{kept}")
    print(f"checked on {images}: logits differ from the model's by at most {written.difference:.1e}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
