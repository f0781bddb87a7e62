"""`load_dataset`: from a data set's name to its parts."""

from pathlib import Path

from ..errors import UserError, nearest
from .base import Splits, hold_out_fold, hold_out_validation, limit_training
from .cifar import load_cifar
from .digits import load_digits
from .download import data_folder
from .emnist import EMNIST_SPLITS, load_emnist
from .files import load_csv, load_folder
from .synthetic import load_synthetic

_DESCRIPTIONS = {
    "cifar10": "60,000 32×32 colour images, 10 classes; downloaded when absent",
    "cifar100": "60,000 32×32 colour images, 100 fine classes; downloaded when absent",
    **{f"emnist_{split}": f"EMNIST {text}; downloaded when absent" for split, text in EMNIST_SPLITS.items()},
    "digits": "1,797 grey digits that come with scikit-learn, upscaled to 32×32; no download",
    "folder:DIR": "images in class folders: DIR/train/CLASS/* with DIR/test (or DIR/val) beside it, or DIR/CLASS/*",
    "csv:FILE": "a table with the columns path,label[,split]",
    "synthetic[:KEY=VALUE,…]": "made-up images; keys classes, train, test, size, channels; no file needed",
}


def list_datasets() -> list[tuple[str, str]]:
    """Every name `load_dataset` takes, as (pattern, one-line description)."""
    return list(_DESCRIPTIONS.items())


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
    kind, colon, rest = name.partition(":")
    if name in ("cifar10", "cifar100"):
        return load_cifar(name, folder, download_missing=download, image_size=image_size)
    if name in _DESCRIPTIONS and name.startswith("emnist_"):
        return load_emnist(name, folder, download_missing=download, image_size=image_size)
    if name == "digits":
        return load_digits(image_size)
    if kind == "synthetic":
        return load_synthetic(name, image_size)
    if kind in ("folder", "csv") and colon:
        if not rest:
            raise UserError(f"{name!r} names no {'folder' if kind == 'folder' else 'file'}: write {kind}:PATH")
        path = Path(rest).expanduser()
        return load_folder(path, image_size) if kind == "folder" else load_csv(path, image_size)
    known = [pattern.split("[")[0] for pattern in _DESCRIPTIONS]
    raise UserError(f"unknown data set {name!r}{nearest(name.lower(), known)}; known are {', '.join(_DESCRIPTIONS)}")
