"""`load_dataset`: from a data set's name to its parts; `register` gives a name to a loader."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest
from .base import Splits, hold_out_fold, hold_out_validation, limit_training
from .cifar import load_cifar
from .digits import load_digits
from .download import data_folder
from .emnist import EMNIST_SPLITS, load_emnist
from .files import load_csv, load_folder
from .synthetic import load_synthetic


@dataclass(frozen=True)
class Source:
    """What a loader is asked for.

    Args:
        name: the data set as the user wrote it, for example ``folder:pets``.
        argument: what follows the colon, ``pets``; empty where there is none.
        folder: where data sets lie, `data_folder` of ``--data-dir``.
        download: whether missing files may be downloaded.
        image_size: pixels a side that were asked for, or None.
    """

    name: str
    argument: str
    folder: Path
    download: bool
    image_size: int | None


Loader = Callable[[Source], Splits]


@dataclass(frozen=True)
class _Entry:
    pattern: str
    description: str
    load: Loader


_ENTRIES: dict[str, _Entry] = {}


def register(pattern: str, description: str) -> Callable[[Loader], Loader]:
    """Decorate a function from a `Source` to `Splits`, so that `load_dataset` and ``--dataset`` take its name.

    Args:
        pattern: ``pets`` for a name alone, ``pets:DIR`` for one that needs an argument, ``pets[:DIR]`` for one that may
            have one.
        description: one line, which ``cifarfast datasets`` shows.

    Raises:
        ValueError: the name is taken.
    """
    name = re.split(r"\[?:", pattern)[0]

    def decorate(load: Loader) -> Loader:
        if name in _ENTRIES:
            raise ValueError(f"a data set named {name!r} is registered already")
        _ENTRIES[name] = _Entry(pattern, description, load)
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
    try:
        splits = _load(name, data_folder(data_dir), download, image_size)
    except OSError as error:
        raise UserError(f"cannot read data set {name}: {error.filename}: {error.strerror or error}") from None
    drawn = seed if split_seed is None else split_seed
    held_out = hold_out_fold(splits, folds, fold, drawn) if folds else hold_out_validation(splits, val_split, drawn)
    return limit_training(held_out, limit_train, seed)


def _load(name: str, folder: Path, download: bool, image_size: int | None) -> Splits:
    kind, colon, argument = name.partition(":")
    entry = _ENTRIES.get(kind)
    if entry is None or bool(colon) > (":" in entry.pattern) or (not colon and ":" in entry.pattern.split("[")[0]):
        patterns = [entry.pattern for entry in _ENTRIES.values()]
        known = [pattern.split("[")[0] for pattern in patterns]
        raise UserError(f"unknown data set {name!r}{nearest(name.lower(), known)}; known are {', '.join(patterns)}")
    return entry.load(Source(name, argument, folder, download, image_size))


@register("cifar100", "60,000 32×32 colour images, 100 fine classes; downloaded when absent")
@register("cifar10", "60,000 32×32 colour images, 10 classes; downloaded when absent")
def _cifar(source: Source) -> Splits:
    return load_cifar(source.name, source.folder, download_missing=source.download, image_size=source.image_size)


def _emnist(source: Source) -> Splits:
    return load_emnist(source.name, source.folder, download_missing=source.download, image_size=source.image_size)


for _split, _text in EMNIST_SPLITS.items():
    register(f"emnist_{_split}", f"EMNIST {_text}; downloaded when absent")(_emnist)


@register("digits", "1,797 grey digits that come with scikit-learn, upscaled to 32×32; no download")
def _digits(source: Source) -> Splits:
    return load_digits(source.image_size)


@register(
    "folder:DIR", "images in class folders: DIR/train/CLASS/* with DIR/test (or DIR/val) beside it, or DIR/CLASS/*"
)
def _folder(source: Source) -> Splits:
    return load_folder(_path(source, "folder"), source.image_size)


@register("csv:FILE", "a table with the columns path,label[,split]")
def _csv(source: Source) -> Splits:
    return load_csv(_path(source, "file"), source.image_size)


@register("synthetic[:KEY=VALUE,…]", "made-up images; keys classes, train, test, size, channels; no file needed")
def _synthetic(source: Source) -> Splits:
    return load_synthetic(source.name, source.image_size)


def _path(source: Source, what: str) -> Path:
    """The argument as a path, which ``what`` names in the error where it is empty."""
    if not source.argument:
        raise UserError(f"{source.name!r} names no {what}: write {source.name}PATH")
    return Path(source.argument).expanduser()
