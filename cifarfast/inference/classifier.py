"""A trained model with its preprocessing in front: uint8 images in, logits out."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..augment.torch_ops import resize
from ..errors import UserError
from ..recipes.recipe import Recipe
from ..runs.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from ..runtime.files import user_path
from ..runtime.precision import DTYPES, autocast
from .checkpoint_model import checkpoint_model

Weights = Literal["auto", "model", "ema"]


class Preprocess(nn.Module):
    """Turns stored images into the model's input: ``(x / 255 − mean) / std`` per channel, enlarged if asked.

    Computed as ``x · scale + bias`` in fp32 with scale = 1 / (255 · std) and bias = −mean / std, and enlarged by the
    augmentation's own ``Resize``, so that the bits equal those of training and evaluation.

    Args:
        mean, std: one number a channel, in units of pixels scaled to 0…1.
        side: pixels a side that the model sees; None leaves images as large as they are.
        channels_last: memory format of the result.
    """

    scale: Tensor
    bias: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], *, side: int | None = None, channels_last: bool = True
    ) -> None:
        super().__init__()
        scale = [1.0 / (255.0 * s) for s in std]
        bias = [-m / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32), persistent=False)
        self.mean, self.std = tuple(mean), tuple(std)
        self.side = side
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Pixels 0…255 of any dtype, ``[N, H, W, C]``, to float32 ``[N, C, H', W']``."""
        if self.side is not None and self.side != images.shape[1]:
            images = resize(images, self.side, self.side, False)
        out = (images.to(torch.float32) * self.scale + self.bias).permute(0, 3, 1, 2)
        return out if self.channels_last else out.contiguous()


class Classifier(nn.Module):
    """Images as they are stored in, logits out: uint8 ``[N, image_size, image_size, in_channels]`` → ``[N, C]``.

    Attributes:
        classes: names, in the order of the logits.
        image_size: pixels a side of the images it takes.
        in_channels: 1 (grey) or 3 (red, green, blue).
        recipe: the settings it was trained with.
        precision: of the forward pass: fp32, or bf16 or fp16 under autocast.
    """

    classes: tuple[str, ...]
    image_size: int
    in_channels: int
    recipe: Recipe
    precision: str


class ImageClassifier(Classifier):
    """``model(preprocess(images))``.

    Attributes:
        model: the trained network, ``[N, C, H, W]`` normalised to logits.
        preprocess: turns stored images into the network's input.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        classes: Sequence[str],
        image_size: int,
        in_channels: int,
        recipe: Recipe,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess
        self.classes = tuple(classes)
        self.image_size, self.in_channels = image_size, in_channels
        self.recipe, self.precision = recipe, precision

    def forward(self, images: Tensor) -> Tensor:
        """uint8 ``[N, image_size, image_size, in_channels]`` to logits float32 ``[N, len(classes)]``."""
        with autocast(images.device, self.precision):
            return self.model(self.preprocess(images).to(DTYPES[self.precision])).float()


def find_checkpoint(path: str | Path) -> tuple[Path, Checkpoint]:
    """The newest checkpoint of a run folder that verifies, or the one at ``path``; names skipped ones on stderr.

    Raises:
        UserError: there is nothing of ours at ``path``, or nothing that verifies.
    """
    path = user_path(path)
    if not path.exists():
        raise UserError(f"there is no {path}: name a run folder, or a checkpoint in its checkpoints/")
    if (path / "manifest.json").exists():
        return path, load_checkpoint(path)
    folder = path if any(path.glob("step-*")) else path / "checkpoints"
    found = newest_checkpoint(folder)
    if found is None:
        if (path / "config.toml").exists():
            raise UserError(f"{path} has no checkpoint, so no weights to load")
        raise UserError(f"{path} is neither a run folder nor a checkpoint of ours")
    where, checkpoint, problems = found
    for problem in problems:
        print(f"cifarfast: {problem}", file=sys.stderr)
    return where, checkpoint


def classifier_of(
    checkpoint: Checkpoint, *, weights: Weights = "auto", device: str = "cpu", where: str = "checkpoint"
) -> ImageClassifier:
    """The model of a checkpoint with its preprocessing, in eval mode.

    Args:
        checkpoint: as ``load_checkpoint`` returns it.
        weights: "model", "ema", or "auto" for the EMA when the checkpoint has one.
        device: where it is to lie; the precision is the one it was trained in where that device has it.
        where: what to call the checkpoint in messages.

    Raises:
        UserError: the tensors are not those of the model it names, or an EMA is asked for and there is none.
    """
    model, recipe = checkpoint_model(checkpoint, weights=weights, device=device, where=where)
    state = checkpoint.state
    preprocess = Preprocess(
        state["preprocessing"]["mean"],
        state["preprocessing"]["std"],
        side=recipe.resize or None,
        channels_last=recipe.channels_last,
    )
    return ImageClassifier(
        model,
        preprocess.to(device),
        classes=state["classes"],
        image_size=state["image_size"],
        in_channels=state["in_channels"],
        recipe=recipe,
        precision=precision_on(recipe, device),
    ).eval()


def precision_on(recipe: Recipe, device: str) -> str:
    """The precision to compute in: the training's, but fp32 on a CPU for what a GPU was trained in."""
    return recipe.precision if device == "cuda" or recipe.device == "cpu" else "fp32"


def load_classifier(path: str | Path, *, weights: Weights = "auto", device: str = "cpu") -> ImageClassifier:
    """The model of a run folder (its newest checkpoint) or of a checkpoint, with its preprocessing, in eval mode.

    Raises:
        UserError: there is nothing to load at ``path``, it is damaged, or it was written by another version.
    """
    where, checkpoint = find_checkpoint(path)
    return classifier_of(checkpoint, weights=weights, device=device, where=str(where))


@torch.inference_mode()
def logits_of(classifier: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Logits float32 ``[N, C]`` of uint8 images ``[N, H, W, channels]``, batch by batch, on their device."""
    return torch.cat([classifier(part) for part in images.split(batch_size)])
