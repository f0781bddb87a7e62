"""Images of the data set as pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..augment.preview import caption, to_pixels
from ..data import Dataset
from ..recipes.build import build_augment, normalization
from ..recipes.recipe import Recipe

_LARGEST = 64  # pixels a side; larger images are made smaller
_LOSSLESS = 40  # up to this side PNG, above it JPEG
TILES = 24
_RANDOM_TILES = 100
_MOST_CLASSES = 62


@dataclass(frozen=True)
class Tile:
    """A picture as a data URI, with lines below it: the label, and for predictions what was predicted instead."""

    source: str
    label: str
    prediction: str = ""
    detail: str = ""
    title: str = ""


def data_uri(pixels: np.ndarray) -> str:
    """An image uint8 [H, W, C] as a PNG, or a JPEG when it is large."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if max(picture.size) > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST))
    kind = "PNG" if max(picture.size) <= _LOSSLESS else "JPEG"
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=85, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def prediction_tiles(
    data: Dataset, probabilities: np.ndarray, chosen: Sequence[int], details: Sequence[str]
) -> list[Tile]:
    """Test images with label, prediction and its confidence, and a detail for each."""
    tiles = []
    for position, detail in zip(chosen, details, strict=True):
        p = probabilities[position]
        guess = int(p.argmax())
        label = data.classes[int(data.labels[position])]
        text = f"{data.classes[guess]} {100 * p[guess]:.0f}\N{NO-BREAK SPACE}%"
        title = f"test image {position}: labelled {label}, predicted {text}"
        tiles.append(Tile(data_uri(data.images[position].numpy()), label, text, detail, title))
    return tiles


def random_tiles(data: Dataset, seed: int = 0) -> list[tuple[str, list[Tile]]]:
    """For each class that has images some of them at random, at most ``_MOST_CLASSES`` classes."""
    generator = np.random.default_rng(seed)
    labels = data.labels.numpy()
    each = max(4, min(10, _RANDOM_TILES // data.num_classes))
    rows = []
    for label, name in list(enumerate(data.classes))[:_MOST_CLASSES]:
        members = np.flatnonzero(labels == label)
        if len(members):
            chosen = generator.choice(members, min(each, len(members)), replace=False)
            rows.append((name, [Tile(data_uri(data.images[i].numpy()), name) for i in chosen]))
    return rows


def augmented_rows(data: Dataset, recipe: Recipe, *, images: int = 4, versions: int = 7) -> list[list[Tile]]:
    """The first training images as they are and as training sees them in epochs over the run, a list an image."""
    augment = build_augment(recipe, *normalization(recipe, data.images), training=True)
    images = min(images, len(data))
    indices = torch.arange(images)
    drawn: Tensor = indices + len(data) if augment.augmented_copy else indices
    rows = [
        [Tile(data_uri(data.images[i].numpy()), data.classes[int(data.labels[i])], detail="original")] for i in indices
    ]
    for epoch in sorted({round(i * (recipe.epochs - 1) / (versions - 1)) for i in range(versions)}):
        batch = augment(data.images, data.labels, drawn, epoch)
        pixels = to_pixels(batch.images, augment.mean, augment.std).numpy()
        for i, row in enumerate(rows):
            row.append(
                Tile(data_uri(pixels[i]), " + ".join(caption(batch, i, data.classes)), detail=f"epoch {epoch + 1}")
            )
    return rows
