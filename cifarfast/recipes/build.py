"""Builds what a recipe describes: the model, and the augmentation with its normalisation."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from ..augment import Augment, Resize
from ..data import Dataset, Splits, load_dataset
from ..data.statistics import channel_statistics
from ..models import create_model, fuse
from ..runtime.precision import DTYPES
from .recipe import Recipe


def load_recipe_data(
    recipe: Recipe, *, data_dir: str | Path | None = None, download: bool = True, whole: bool = False
) -> Splits:
    """The recipe's data set, on the CPU; raises as ``load_dataset`` does.

    Args:
        data_dir: where it lies instead of the recipe's folder.
        download: whether it may be downloaded.
        whole: without holding out or limiting training images.
    """
    parts = ("val_split", "folds", "fold", "limit_train", "split_seed")
    return load_dataset(
        recipe.dataset,
        data_dir=data_dir or recipe.data_dir,
        download=download,
        image_size=recipe.image_size,
        background=recipe.background,
        drop_train_duplicates=recipe.drop_train_duplicates,
        seed=recipe.seed,
        **({} if whole else {name: getattr(recipe, name) for name in parts}),
    )


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
    """The function that turns indices into a batch: with the recipe's augmentation for training, without it otherwise.

    A model may take more ``channels`` than the images have. The channels that the images lack are 0.
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
