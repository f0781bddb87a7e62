"""The likeliest classes of image files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from stat import S_ISDIR

import numpy as np
import torch

from ..data.image_files import image_suffixes, read_image
from ..data.scan import left_out_line, scan
from ..errors import UserError
from ..runtime.files import user_path
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


@dataclass(frozen=True)
class LeftOut:
    """The files of a folder that are no images: how many of each suffix or kind."""

    path: str
    files: Counter[str]

    def to_text(self) -> str:
        """``left out 40 files: .heic 20, .jp2 20``."""
        return left_out_line(self.files)


def predict_files(
    model: Classifier,
    paths: Sequence[str | Path],
    *,
    top_k: int = 5,
    batch_size: int = 64,
) -> Iterator[FilePrediction | Unreadable | LeftOut]:
    """Classify image files and the images in folders, in their order, a batch at a time.

    Args:
        model: as ``load_model`` returns it, on the device that is to compute.
        paths: of files and folders.
        top_k: classes of each image; at most as many as there are.
        batch_size: images a batch.

    Yields:
        for every image its likeliest classes, or why it could not be used; for a folder also what was left out.

    Raises:
        UserError: the model's logits are not finite.
    """
    device = next(model.parameters()).device
    files = _files(paths)
    while batch := list(islice(files, batch_size)):
        read: dict[int, np.ndarray] = {}
        others: dict[int, Unreadable | LeftOut] = {}
        for place, found in enumerate(batch):
            try:
                if isinstance(found, Path):
                    read[place] = read_image(found, model.image_size, model.in_channels, model.recipe.background)
                else:
                    others[place] = found
            except UserError as error:
                others[place] = Unreadable(str(found), str(error))
        rows = iter(_classify(model, np.stack(list(read.values())), device, top_k) if read else ())
        for place, found in enumerate(batch):
            yield others[place] if place in others else FilePrediction(str(found), *next(rows))


def _files(paths: Sequence[str | Path]) -> Iterator[Path | Unreadable | LeftOut]:
    for given in paths:
        try:
            path = user_path(given)
            if not S_ISDIR(path.stat().st_mode):
                yield path
                continue
            found = scan(path)
        except UserError as error:
            yield Unreadable(str(given), str(error))
        except (FileNotFoundError, ValueError):
            yield Unreadable(str(given), f"{given}: there is no such file or folder")
        except OSError as error:
            yield Unreadable(str(given), f"{given}: cannot be listed: {error.strerror or error}")
        else:
            yield from found.images
            if found.left_out:
                yield LeftOut(str(given), found.left_out)
            if not found.images:
                kinds = ", ".join(image_suffixes())
                yield Unreadable(str(given), f"{given}: there is no image in this folder ({kinds})")


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
