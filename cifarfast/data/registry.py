"""`load_dataset`: from a data set's name to its parts; `register` gives a name to a loader."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest
from ..runtime.files import user_path
from .base import Splits, hold_out_fold, hold_out_validation, limit_training, without_train_duplicates
from .cifar import cifar_classes, load_cifar
from .csv_file import list_csv
from .digits import DIGITS, load_digits
from .download import data_folder
from .emnist import EMNIST_SPLITS, emnist_classes, load_emnist
from .files import read_parts
from .folder import list_folder
from .image_files import Background
from .synthetic import load_synthetic, synthetic_classes


@dataclass(frozen=True)
class Source:
    """What a loader is asked for.

    Args:
        name: the data set as the user wrote it, for example ``folder:pets``.
        argument: what follows the colon, ``pets``; empty where there is none.
        folder: where data sets lie, `data_folder` of ``--data-dir``.
        download: whether missing files may be downloaded.
        image_size: pixels a side that were asked for, or None.
        background: what shows through where images are transparent.
    """

    name: str
    argument: str
    folder: Path
    download: bool
    image_size: int | None
    background: Background = "white"


Loader = Callable[[Source], Splits]
ClassNames = Callable[[Source], tuple[str, ...]]


@dataclass(frozen=True)
class _Entry:
    pattern: str
    description: str
    load: Loader
    classes: ClassNames | None


_ENTRIES: dict[str, _Entry] = {}


def register(pattern: str, description: str, classes: ClassNames | None = None) -> Callable[[Loader], Loader]:
    """Decorate a function from a `Source` to `Splits`, so that `load_dataset` and ``--dataset`` take its name.

    Args:
        pattern: ``pets`` for a name alone, ``pets:DIR`` for one that needs an argument, ``pets[:DIR]`` for one that may
            have one.
        description: one line, which ``cifarfast datasets`` shows.
        classes: from a `Source` to the class names, without loading or downloading anything, where that is possible.

    Raises:
        ValueError: the name is taken.
    """
    name = re.split(r"\[?:", pattern)[0]

    def decorate(load: Loader) -> Loader:
        if name in _ENTRIES:
            raise ValueError(f"a data set named {name!r} is registered already")
        _ENTRIES[name] = _Entry(pattern, description, load, classes)
        return load

    return decorate


def list_datasets() -> list[tuple[str, str]]:
    """Every name `load_dataset` takes, as (pattern, one-line description)."""
    return [(entry.pattern, entry.description) for entry in _ENTRIES.values()]


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
    val_split: float = 0.0,
    folds: int = 0,
    fold: int = 0,
    limit_train: int | None = None,
    image_size: int | None = None,
    background: Background = "white",
    drop_train_duplicates: bool = False,
    seed: int = 0,
    split_seed: int | None = None,
) -> Splits:
    """Load a data set as uint8 ``[N, H, W, C]`` images and int64 labels on the CPU; `Splits.to` moves it.

    Args:
        name: see `list_datasets`.
        data_dir: where downloaded data lies; default is the environment variable CIFARFAST_DATA, else ``./data``. It
            may also be the inner folder itself, for example ``…/cifar-10-batches-py``.
        download: download CIFAR and EMNIST through torchvision when they are not there.
        val_split: this fraction of every class moves from the training part to ``val``, drawn from ``split_seed``.
        folds: divide the training part into this many parts, drawn from ``split_seed``; 0 divides nothing.
        fold: the part of these, counted from 0, that moves to ``val``.
        limit_train: after that, keep this many training samples, a random subset drawn from ``seed``.
        image_size: pixels a side, for ``folder:``, ``csv:`` and ``digits``. The others have one size only.
        background: what shows through where images of ``folder:`` and ``csv:`` are transparent; "none" takes the
            colours under the transparency.
        drop_train_duplicates: leave out the training images whose pixels are exactly those of a test image, before
            anything is held out.
        seed: the run's seed. It never changes the test part.
        split_seed: of ``val_split`` and ``folds``; default: ``seed``.

    Raises:
        UserError: anything wrong with these arguments or the data, as one line that says what to do.
    """
    if not 0 <= val_split < 1:
        raise UserError(f"val_split is {val_split}, allowed is 0 (no validation part) up to but not including 1")
    if folds and val_split:
        raise UserError(f"folds is {folds} and val_split is {val_split}: only one of them can hold out images")
    if fold and not folds:
        raise UserError(f"fold is {fold}, but folds, the number of parts, is not given")
    if limit_train is not None and limit_train < 1:
        raise UserError(f"limit_train is {limit_train}, allowed is 1 or more training samples")
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size is {image_size}, allowed is 1 or more pixels")
    source, entry = _find(name, data_dir, download, image_size, background)
    try:
        splits = entry.load(source)
    except OSError as error:
        raise UserError(f"cannot read data set {name}: {error.filename}: {error.strerror or error}") from None
    if drop_train_duplicates:
        splits = without_train_duplicates(splits)
    drawn = seed if split_seed is None else split_seed
    held_out = hold_out_fold(splits, folds, fold, drawn) if folds else hold_out_validation(splits, val_split, drawn)
    return limit_training(held_out, limit_train, seed)


def class_names(name: str, data_dir: str | Path | None = None) -> tuple[str, ...] | None:
    """The class names of a data set as `load_dataset` would give them, without loading or downloading it.

    None where only loading tells.

    Raises:
        UserError: an unknown name, or files that cannot be read.
    """
    source, entry = _find(name, data_dir, False, None, "white")
    try:
        return entry.classes(source) if entry.classes else None
    except OSError as error:
        raise UserError(f"cannot read data set {name}: {error.filename}: {error.strerror or error}") from None


def _find(
    name: str, data_dir: str | Path | None, download: bool, image_size: int | None, background: Background
) -> tuple[Source, _Entry]:
    kind, colon, argument = name.partition(":")
    entry = _ENTRIES.get(kind)
    if entry is None or bool(colon) > (":" in entry.pattern) or (not colon and ":" in entry.pattern.split("[")[0]):
        patterns = [entry.pattern for entry in _ENTRIES.values()]
        known = [pattern.split("[")[0] for pattern in patterns]
        raise UserError(f"unknown data set {name!r}{nearest(name.lower(), known)}; known are {', '.join(patterns)}")
    return Source(name, argument, data_folder(data_dir), download, image_size, background), entry


def _classes_of_cifar(source: Source) -> tuple[str, ...]:
    return cifar_classes(source.name, source.folder)


@register("cifar100", "60,000 32×32 colour images, 100 fine classes; downloaded when absent", _classes_of_cifar)
@register("cifar10", "60,000 32×32 colour images, 10 classes; downloaded when absent", _classes_of_cifar)
def _cifar(source: Source) -> Splits:
    return load_cifar(source.name, source.folder, download_missing=source.download, image_size=source.image_size)


def _emnist(source: Source) -> Splits:
    return load_emnist(source.name, source.folder, download_missing=source.download, image_size=source.image_size)


for _split, _text in EMNIST_SPLITS.items():
    register(f"emnist_{_split}", f"EMNIST {_text}; downloaded when absent", lambda s: emnist_classes(s.name))(_emnist)


@register("digits", "1,797 grey digits that come with scikit-learn, upscaled to 32×32; no download", lambda _: DIGITS)
def _digits(source: Source) -> Splits:
    return load_digits(source.image_size)


@register(
    "folder:DIR",
    "images in class folders: DIR/train/CLASS/* with DIR/test (or DIR/val) beside it, or DIR/CLASS/*",
    lambda source: list_folder(_path(source, "folder")).classes,
)
def _folder(source: Source) -> Splits:
    folder = _path(source, "folder")
    return read_parts(f"folder:{folder}", list_folder(folder), source.image_size, source.background)


@register(
    "csv:FILE",
    "a table with the columns path,label[,split]",
    lambda source: list_csv(_path(source, "file")).classes,
)
def _csv(source: Source) -> Splits:
    file = _path(source, "file")
    return read_parts(f"csv:{file}", list_csv(file), source.image_size, source.background)


@register(
    "synthetic[:KEY=VALUE,…]",
    "made-up images; keys classes, train, test, size, channels; no file needed",
    lambda source: synthetic_classes(source.name),
)
def _synthetic(source: Source) -> Splits:
    return load_synthetic(source.name, source.image_size)


def _path(source: Source, what: str) -> Path:
    """The argument as a path, which ``what`` names in the error where it is empty."""
    if not source.argument:
        raise UserError(f"{source.name!r} names no {what}: write {source.name}PATH")
    return user_path(source.argument)
