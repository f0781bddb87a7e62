"""A model's logits for a data set, and the score of a checkpoint."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from .augment import Augment, Resize
from .capture import Graphs
from .checkpoint import Checkpoint
from .data import Dataset
from .data.statistics import channel_statistics
from .distributed import World
from .errors import UserError
from .models import create_model, fuse
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
    if recipe.backend == "fused":
        fuse(model)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return convert_conv2d_weight_memory_format(model.to(data.images.device), layout)


def input_size(recipe: Recipe, data: Dataset) -> int:
    """Side in pixels of the images the model sees."""
    return recipe.resize or data.image_size


def normalization(recipe: Recipe, images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that the recipe normalises by, for the training ``images``."""
    if recipe.normalize == "standard":
        return channel_statistics(images)
    channels = images.shape[3]
    return (0.0,) * channels, (1.0,) * channels


def build_augment(
    recipe: Recipe, mean: Sequence[float], std: Sequence[float], *, training: bool, channels: int | None = None
) -> Augment:
    """What turns indices into a batch: with the recipe's augmentation for training, without it for evaluation.

    ``channels`` are those that the model takes where they are more than the images': the others are 0.
    """
    plain = [Resize(side=recipe.resize)] if recipe.resize else []
    return Augment(
        recipe.transforms(recipe.epochs) if training else plain,
        mean,
        std,
        seed=recipe.seed,
        dtype=DTYPES[recipe.precision],
        channels_last=recipe.channels_last,
        pad_channels=channels,
        augmented_copy=training and recipe.augmented_copy,
    )


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """torch's autocast for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    data: Dataset,
    prepare: Augment,
    *,
    batch_size: int,
    precision: str,
    graphs: Graphs | None = None,
    world: World | None = None,
) -> Tensor:
    """Logits fp32 [N, C] of a model in eval mode for every image of a data set, in its order, on the images' device.

    Args:
        model: on the images' device.
        data: the images.
        prepare: turns indices into a batch.
        batch_size: images at once.
        precision: "fp32", "bf16" or "fp16".
        graphs: records the forward pass, for a model that is evaluated again and again.
        world: processes that share the work; all of them get all logits.
    """
    device, world = data.images.device, world or World()
    every = torch.arange(len(data), device=device)
    mine = every[world.part(len(data))]

    def forward(batch: Tensor) -> Tensor:
        # the epoch as a number: a graph would go on reading a tensor that is gone after this call
        with autocast(device, precision):
            return model(prepare(data.images, data.labels, batch, 0).images).float()

    if not len(mine):  # fewer images than processes, and not every model takes an empty batch
        return world.gather(forward(every[:1])[:0], len(data))
    logits = []
    for part in mine.split(batch_size):
        if graphs is None or not graphs.enabled:
            logits.append(forward(part))
        else:
            key = ("evaluate", id(model), id(data), len(part))
            static = graphs.keep(key, torch.empty_like(part))
            static.copy_(part)
            logits.append(graphs.run(key, lambda static=static: forward(static)).clone())  # type: ignore[misc]
    return world.gather(torch.cat(logits), len(data))


def checkpoint_model(
    checkpoint: Checkpoint, *, weights: str = "auto", device: torch.device | str = "cpu", where: str = "checkpoint"
) -> tuple[nn.Module, Recipe]:
    """The model of a checkpoint in eval mode, and the settings it was trained with.

    Args:
        checkpoint: as ``load_checkpoint`` returns it.
        weights: "model", "ema", or "auto" for the EMA when the checkpoint has one.
        device: where the model is to lie.
        where: what to call the checkpoint in messages.

    Raises:
        UserError: there is no EMA and one is asked for, or the tensors are not those of the model it names.
    """
    state, tensors = checkpoint.state, checkpoint.tensors
    if weights == "ema" and "ema" not in tensors:
        raise UserError(f"{where} has no EMA: use --weights model")
    try:
        recipe = validate(state["recipe"], where)
        model = create_model(
            recipe.arch,
            num_classes=len(state["classes"]),
            in_channels=state["in_channels"],
            image_size=recipe.resize or state["image_size"],
            dropout=recipe.dropout,
        )
        model.load_state_dict(tensors["ema" if weights != "model" and "ema" in tensors else "model"])
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{where} does not fit the model it names: {str(error).splitlines()[0]}") from None
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return convert_conv2d_weight_memory_format(model.to(device), layout).eval(), recipe


def checkpoint_augment(checkpoint: Checkpoint, recipe: Recipe) -> Augment:
    """What turns indices into batches as the checkpoint's model was evaluated."""
    preprocessing = checkpoint.state["preprocessing"]
    return build_augment(recipe, preprocessing["mean"], preprocessing["std"], training=False)


def check_images(checkpoint: Checkpoint, data: Dataset, where: str = "checkpoint") -> None:
    """Raise a UserError unless the images have the size and channels that the checkpoint's model was trained on."""
    trained = (checkpoint.state["image_size"], checkpoint.state["in_channels"])
    given = (data.image_size, data.in_channels)
    if trained != given:
        raise UserError(f"{where} was trained on images of (size, channels) = {trained}; the data have {given}")
