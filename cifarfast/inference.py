"""A model's logits for a data set, and the score of a checkpoint."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from .augment import Augment, Resize
from .checkpoint import Checkpoint
from .data import Dataset
from .errors import UserError
from .metrics import Scores, score
from .models import create_model
from .recipe import Recipe, validate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_model(recipe: Recipe, data: Dataset) -> nn.Module:
    """The recipe's model, initialised by its seed, for the data's image size, channels and classes, on their device."""
    torch.manual_seed(recipe.seed)
    model = create_model(
        recipe.arch,
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        image_size=input_size(recipe, data),
        init=recipe.init,
        dropout=recipe.dropout,
    )
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return convert_conv2d_weight_memory_format(model.to(data.images.device), layout)


def input_size(recipe: Recipe, data: Dataset) -> int:
    """Side in pixels of the images the model sees."""
    return recipe.resize or data.image_size


def build_augment(recipe: Recipe, mean: Sequence[float], std: Sequence[float], *, training: bool) -> Augment:
    """What turns indices into a batch: with the recipe's augmentation for training, without it for evaluation."""
    plain = [Resize(side=recipe.resize)] if recipe.resize else []
    return Augment(
        recipe.transforms(recipe.epochs) if training else plain,
        mean,
        std,
        seed=recipe.seed,
        dtype=DTYPES[recipe.precision],
        channels_last=recipe.channels_last,
        augmented_copy=training and recipe.augmented_copy,
    )


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """torch's autocast for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@torch.inference_mode()
def predict_logits(model: nn.Module, data: Dataset, prepare: Augment, *, batch_size: int, precision: str) -> Tensor:
    """Logits fp32 [N, C] of a model in eval mode for every image of a data set, in its order, on the images' device."""
    device = data.images.device
    indices = torch.arange(len(data), device=device)
    logits = []
    with autocast(device, precision):
        for part in indices.split(batch_size):
            logits.append(model(prepare(data.images, data.labels, part, 0).images).float())
    return torch.cat(logits)


def evaluate_checkpoint(
    checkpoint: Checkpoint, data: Dataset, *, weights: str = "auto", batch_size: int = 500, where: str = "checkpoint"
) -> Scores:
    """Score a checkpoint's model on a data set that lies on the device to use.

    Args:
        checkpoint: as ``load_checkpoint`` returns it.
        data: images of the size and channels the model was trained on.
        weights: "model", "ema", or "auto" for the EMA when the checkpoint has one.
        batch_size: images a batch.
        where: what to call the checkpoint in messages.

    Raises:
        UserError: the data have other shapes or classes than the model, or there is no EMA and one is asked for.
    """
    state, tensors = checkpoint.state, checkpoint.tensors
    if weights == "ema" and "ema" not in tensors:
        raise UserError(f"{where} has no EMA: use --weights model")
    trained = (state["image_size"], state["in_channels"], len(state["classes"]))
    given = (data.image_size, data.in_channels, data.num_classes)
    if trained != given:
        raise UserError(f"{where} was trained on (size, channels, classes) = {trained}; the data have {given}")
    recipe = validate(state["recipe"], where)
    model = build_model(recipe, data).eval()
    model.load_state_dict(tensors["ema" if weights != "model" and "ema" in tensors else "model"])
    prepare = build_augment(recipe, state["preprocessing"]["mean"], state["preprocessing"]["std"], training=False)
    return score(predict_logits(model, data, prepare, batch_size=batch_size, precision=recipe.precision), data.labels)
