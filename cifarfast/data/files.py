"""`folder:DIR` (class folders) and `csv:FILE` (a table of paths and labels), read with Pillow."""

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UserError, nearest
from .base import Dataset, Splits, hold_out_test, make_dataset
from .image_files import SUFFIXES, open_image, quiet_pillow, to_pixels

_PARTS = ("train", "test", "val")


@dataclass
class _Listing:
    """The files of one part (train, test, val, or ``all`` before a test part is held out) and the label of each."""

    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def load_folder(folder: Path, image_size: int | None = None) -> Splits:
    """Images in class folders, as uint8 ``[N, S, S, C]`` with C = 1 when every image is grey, else 3.

    With ``DIR/train/CLASS/*`` the test part is ``DIR/test``; where there is none, ``DIR/val``. With both, ``DIR/val``
    is the validation part. With ``DIR/CLASS/*`` alone, 20 % of every class become the test part by the fixed rule of
    `hold_out_test` over the files in the order of class and file name. Classes are the folders' names, sorted. Files
    without an image suffix and hidden ones are passed over; every other file must be readable.

    Images are used as they are when all are squares of one size; with ``image_size`` each is resized to it (bilinear,
    antialiased, not cropped, so the aspect ratio may change). EXIF orientation, 16 bits, transparency: see
    `image_files.to_pixels`.

    Raises:
        UserError: no such folder, fewer than two classes, a class without images or unknown to the training part, an
            unreadable image, or images of different sizes without ``image_size``.
    """
    if not folder.is_dir():
        raise UserError(f"folder:{folder}: there is no such folder; write folder:DIR with DIR/CLASS/*.png in it")
    roots = {part: folder / part for part in _PARTS if (folder / part).is_dir()}
    if "train" not in roots:
        roots = {"all": folder}
    elif len(roots) == 1:
        raise UserError(f"{folder} has train/ but no test/ or val/ beside it; add one, or use folder:{folder}/train")
    root = roots.get("train", folder)
    try:
        classes = _class_folders(root)
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "none"
            raise UserError(f"{root} needs a folder for each of at least two classes, it has {found}")
        listings = {part: _list_images(root, classes) for part, root in roots.items()}
    except OSError as error:
        raise UserError(f"cannot list {error.filename}: {error.strerror}; check its permissions") from None
    return _load(f"folder:{folder}", listings, classes, image_size)


def load_csv(file: Path, image_size: int | None = None) -> Splits:
    """Images listed in a CSV file (UTF-8, header ``path,label`` or ``path,label,split``), as in `load_folder`.

    Paths are relative to the file's folder. Classes are the labels, sorted as numbers when all are whole numbers, else
    as text. ``split`` is train, test or val; where there is no test row the val rows are the test part. Without that
    column 20 % of every class become the test part by the fixed rule of `hold_out_test` over the rows in their order.

    Raises:
        UserError: a missing or malformed file, an image that is missing or unreadable, fewer than two classes, a class
            without training rows, or images of different sizes without ``image_size``.
    """
    rows = _read_rows(file)
    labels = {label for _, label, _ in rows}
    whole = all(label.removeprefix("-").isdecimal() and len(label) < 19 for label in labels)
    classes = [str(n) for n in sorted({int(label) for label in labels})] if whole else sorted(labels)
    if len(classes) < 2:
        raise UserError(f"{file} needs rows of at least two classes, it has {len(rows)} of {classes[0]!r}")
    number = {name: index for index, name in enumerate(classes)}
    listings: dict[str, _Listing] = {}
    for path, label, part in rows:
        listing = listings.setdefault(part, _Listing())
        listing.paths.append(file.parent / path)
        listing.labels.append(number[str(int(label)) if whole else label])
    if "all" not in listings:
        _check_parts(file, listings, classes)
    return _load(f"csv:{file}", listings, classes, image_size)


def _check_parts(file: Path, listings: dict[str, _Listing], classes: Sequence[str]) -> None:
    """Raise `UserError` without training rows, without test and val rows, or for a class without training rows."""
    if "train" not in listings or len(listings) == 1:
        lacking = "test or val" if "train" in listings else "train"
        raise UserError(f"{file} has no row whose split is {lacking}; add some")
    absent = set(range(len(classes))) - set(listings["train"].labels)
    if absent:
        raise UserError(f"{file} has no train row of class {classes[min(absent)]!r}; add some, or drop the class")


def _class_folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _list_images(root: Path, classes: Sequence[str]) -> _Listing:
    """The image files of one part, by class and name."""
    listing = _Listing()
    for name in _class_folders(root):
        if name not in classes:
            raise UserError(f"{root / name} is a class that the training part lacks{nearest(name, classes)}; rename it")
        files = sorted(path for path in (root / name).iterdir() if path.suffix.lower() in SUFFIXES)
        files = [path for path in files if not path.name.startswith(".")]
        if not files:
            raise UserError(f"{root / name} has no images ({', '.join(SUFFIXES)}); add some or remove the folder")
        listing.paths += files
        listing.labels += [classes.index(name)] * len(files)
    if not listing.paths:
        raise UserError(f"{root} has no class folders; it needs the ones of the training part")
    return listing


def _read_rows(file: Path) -> list[tuple[str, str, str]]:
    """(path, label, part) of every row; the part is ``"all"`` without a split column."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            table = csv.reader(opened, strict=True)
            header = [name.strip() for name in next(table, [])]
            if header[:2] != ["path", "label"] or header[2:] not in ([], ["split"]):
                found = ",".join(header)[:80]
                raise UserError(f"{file}: the first line is {found!r}, it must be path,label or path,label,split")
            rows = [_parse_row(file, table.line_num, row, len(header)) for row in table if row]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; write csv:FILE with an existing file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a CSV file in UTF-8: {error}; save it as one") from None
    if not rows:
        raise UserError(f"{file} has no rows after its header; add path,label rows")
    return rows


def _parse_row(file: Path, line: int, row: list[str], columns: int) -> tuple[str, str, str]:
    values = [value.strip() for value in row]
    if len(values) != columns or not values[0] or not values[1] or "\0" in values[0]:
        found = ",".join(values)[:80]
        raise UserError(f"{file} line {line}: expected {columns} values that are not empty, found {found!r}")
    if columns == 2:
        return values[0], values[1], "all"
    if values[2] not in _PARTS:
        raise UserError(f"{file} line {line}: split is {values[2]!r}, allowed is train, test or val")
    return values[0], values[1], values[2]


def _load(name: str, listings: dict[str, _Listing], classes: Sequence[str], image_size: int | None) -> Splits:
    """Read all parts, so that they agree in channels and size, and arrange them as `Splits`."""
    paths = [path for listing in listings.values() for path in listing.paths]
    images = _read_images(paths, image_size)
    parts: dict[str, Dataset] = {}
    start = 0
    for part, listing in listings.items():
        stop = start + len(listing.paths)
        labels = np.array(listing.labels)
        parts[part] = make_dataset(images[start:stop], labels, classes, official=False, source=name)
        start = stop
    if "all" in parts:
        train, test = hold_out_test(parts["all"])
        return Splits(name, train, None, test)
    if "test" not in parts:
        return Splits(name, parts["train"], None, parts["val"])
    return Splits(name, parts["train"], parts.get("val"), parts["test"])


def _read_images(paths: Sequence[Path], image_size: int | None) -> np.ndarray:
    """All images as uint8 ``[N, S, S, C]``."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    images: list[np.ndarray] = []
    try:
        with quiet_pillow():
            for path, image in zip(paths, pool.map(lambda path: _read_image(path, image_size), paths), strict=True):
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


def _read_image(path: Path, image_size: int | None) -> np.ndarray:
    """One image as uint8 ``[H, W, 1 or 3]``."""
    if not path.is_file():
        raise UserError(f"there is no image {path}; correct the path (relative paths start at the CSV file's folder)")
    try:
        with open_image(path) as image:
            return to_pixels(image, image_size, None)
    except UserError as error:
        raise UserError(f"{error}; repair or remove it") from None
