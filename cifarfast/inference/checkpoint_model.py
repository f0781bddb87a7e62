"""The model of a checkpoint, and the preprocessing it was evaluated with."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from ..augment import Augment
from ..data import Dataset
from ..errors import UserError
from ..models import create_model
from ..models.info import meta_model
from ..recipes.build import build_augment
from ..recipes.recipe import Recipe, validate
from ..runs.checkpoint import Checkpoint, check_tensors


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
        UserError: there is no EMA and one is asked for, or the tensors are not those of the model it names, or not
            finite.
    """
    state, tensors = checkpoint.state, checkpoint.tensors
    if weights == "ema" and "ema" not in tensors:
        raise UserError(f"{where} has no EMA: use --weights model")
    chosen = tensors["ema" if weights != "model" and "ema" in tensors else "model"]
    recipe = validate(state["recipe"], where)
    settings: dict[str, Any] = {
        "num_classes": len(state["classes"]),
        "in_channels": state["in_channels"],
        "image_size": recipe.resize or state["image_size"],
        "dropout": recipe.dropout,
    }
    try:
        # without memory first: a checkpoint may name a model of any size
        check_tensors(chosen, meta_model(recipe.arch, **settings).state_dict())
        if not all(tensor.isfinite().all() for tensor in chosen.values()):
            raise RuntimeError("a weight is not finite")
        model = create_model(recipe.arch, **settings)
        model.load_state_dict(chosen)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{where} does not fit the model it names: {str(error).splitlines()[0]}") from None
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return convert_conv2d_weight_memory_format(model.to(device), layout).eval(), recipe


def checkpoint_augment(checkpoint: Checkpoint, recipe: Recipe) -> Augment:
    """The function that turns indices into batches, with the preprocessing of the checkpoint's evaluation."""
    preprocessing = checkpoint.state["preprocessing"]
    return build_augment(recipe, preprocessing["mean"], preprocessing["std"], training=False)


def check_images(checkpoint: Checkpoint, data: Dataset, where: str = "checkpoint") -> None:
    """Raise a UserError unless the images have the size and channels that the checkpoint's model was trained on."""
    trained = (checkpoint.state["image_size"], checkpoint.state["in_channels"])
    given = (data.image_size, data.in_channels)
    if trained != given:
        raise UserError(f"{where} was trained on images of (size, channels) = {trained}; the data have {given}")
