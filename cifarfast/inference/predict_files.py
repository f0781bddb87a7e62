"""The likeliest classes of image files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ..data.image_files import list_images, read_image
from ..errors import UserError
from .classifier import Classifier


@dataclass(frozen=True)
class FilePrediction:
    """The likeliest classes of one image file: names, positions and confidences (softmax, 0…1), falling."""

    path: str
    classes: tuple[str, ...]
    positions: tuple[int, ...]
    confidences: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        rows = zip(self.classes, self.positions, self.confidences, strict=True)
        named = [{"class": name, "index": place, "confidence": value} for name, place, value in rows]
        return {"path": self.path, "predictions": named}


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be used, and why."""

    path: str
    reason: str


def predict_files(
    model: Classifier,
    paths: Sequence[str | Path],
    *,
    top_k: int = 5,
    batch_size: int = 64,
) -> Iterator[FilePrediction | Unreadable]:
    """Classify image files and the images in folders, in their order, a batch at a time.

    Args:
        model: as ``load_model`` returns it, on the device that is to compute.
        paths: of files and folders.
        top_k: classes of each image; at most as many as there are.
        batch_size: images a batch.

    Yields:
        for every image its likeliest classes, or why it could not be used.

    Raises:
        UserError: the model's logits are not finite.
    """
    device = next(model.parameters()).device
    files = _files(paths)
    while batch := list(islice(files, batch_size)):
        read: dict[int, np.ndarray] = {}
        failed: dict[int, Unreadable] = {}
        for place, found in enumerate(batch):
            try:
                if isinstance(found, Unreadable):
                    failed[place] = found
                else:
                    read[place] = read_image(found, model.image_size, model.in_channels)
            except UserError as error:
                failed[place] = Unreadable(str(found), str(error))
        rows = iter(_classify(model, np.stack(list(read.values())), device, top_k) if read else ())
        for place, found in enumerate(batch):
            yield failed[place] if place in failed else FilePrediction(str(found), *next(rows))


def _files(paths: Sequence[str | Path]) -> Iterator[Path | Unreadable]:
    for path in paths:
        try:
            yield from list_images(Path(path))
        except UserError as error:
            yield Unreadable(str(path), str(error))
        except OSError as error:
            yield Unreadable(str(path), f"{path}: cannot be listed: {error.strerror or error}")


@torch.inference_mode()
def _classify(
    model: Classifier, images: np.ndarray, device: torch.device, top_k: int
) -> list[tuple[tuple[str, ...], tuple[int, ...], tuple[float, ...]]]:
    probabilities = model(torch.from_numpy(images).to(device)).double().softmax(dim=1)
    if not probabilities.isfinite().all():
        raise UserError("the model's logits are not finite: nothing can be said of the images")
    best = probabilities.topk(min(top_k, len(model.classes)), dim=1)
    return [
        (tuple(model.classes[place] for place in places), tuple(places), tuple(values))
        for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
