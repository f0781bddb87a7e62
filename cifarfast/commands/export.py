"""``cifarfast export RUN``: a trained model as ONNX or as a torch.export program, checked against the model."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ..exporting.export import export
from .flags import parse_flags, run_main


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
