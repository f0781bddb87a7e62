"""What `folder:` and `csv:` share: the files of each part with their labels, read with Pillow into `Splits`."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UserError
from .base import Dataset, Splits, hold_out_test, make_dataset
from .image_files import Background, open_image, quiet_pillow, to_pixels

PARTS = ("train", "test", "val")
_READ_AHEAD = 4096  # images that are asked for before the first of them is checked


@dataclass
class Listing:
    """The files of one part and the label of each."""

    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Listed:
    """The files of a data set before any is read.

    Attributes:
        parts: of train, test and val those that there are, or ``all``, of which a test part is to be held out.
        classes: the class names.
        notes: lines on what was left out.
    """

    parts: dict[str, Listing]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def class_name(text: str) -> str:
    """A class's name from a folder's name or a label, in NFC; bytes of it that are not UTF-8 become ``\\xe9``.

    So names that look the same, as "é" in its two Unicode forms, are one class, and every name can be written down.
    """
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", readable)


def read_parts(name: str, listed: Listed, image_size: int | None, background: Background) -> Splits:
    """Read all parts, so that they agree in channels and size, and arrange them as `Splits`.

    Images are used as they are when all are squares of one size; with ``image_size`` each is resized to it (bilinear,
    antialiased, not cropped, so the aspect ratio may change). EXIF orientation, 16 bits, transparency: see
    `image_files.to_pixels`.

    Raises:
        UserError: an unreadable image, or images of different sizes without ``image_size``.
    """
    listings, classes = listed.parts, listed.classes
    paths = [path for listing in listings.values() for path in listing.paths]
    images = _read_images(paths, lambda path: _read_image(path, image_size, background))
    parts: dict[str, Dataset] = {}
    start = 0
    for part, listing in listings.items():
        stop = start + len(listing.paths)
        labels = np.array(listing.labels)
        parts[part] = make_dataset(images[start:stop], labels, classes, official=False, source=name)
        start = stop
    if "all" in parts:
        train, test = hold_out_test(parts["all"])
        return Splits(name, train, None, test, listed.notes)
    if "test" not in parts:
        return Splits(name, parts["train"], None, parts["val"], listed.notes)
    return Splits(name, parts["train"], parts.get("val"), parts["test"], listed.notes)


def _read_images(paths: Sequence[Path], read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """All images as uint8 ``[N, S, S, C]``."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    images: list[np.ndarray] = []
    try:
        with quiet_pillow():
            for start in range(0, len(paths), _READ_AHEAD):  # a broken image is told before the last one is waited for
                for path, image in zip(part := paths[start : start + _READ_AHEAD], pool.map(read, part), strict=True):
                    _check_size(path, image, paths[0], images[0] if images else image)
                    images.append(image)
    finally:
        pool.shutdown(cancel_futures=True)
    channels = max(image.shape[2] for image in images)
    out = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    for index, image in enumerate(images):
        out[index] = image  # a grey image among coloured ones is repeated over the channels
    return out


def _check_size(path: Path, image: np.ndarray, first_path: Path, first: np.ndarray) -> None:
    height, width = image.shape[:2]
    if image.shape[:2] != first.shape[:2]:
        other = f"{first_path} {first.shape[1]}×{first.shape[0]}"
        raise UserError(f"images differ in size ({path} is {width}×{height}, {other}): give --image-size 32")
    if height != width:
        raise UserError(f"images must be square, {path} is {width}×{height}: give --image-size 32")


def _read_image(path: Path, image_size: int | None, background: Background) -> np.ndarray:
    """One image as uint8 ``[H, W, 1 or 3]``."""
    try:
        with open_image(path) as image:
            return to_pixels(image, image_size, None, background)
    except UserError as error:
        raise UserError(f"{error}; repair or remove it") from None
