"""CIFAR-10 and CIFAR-100, from the Python (pickle) or the binary layout."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..runtime.files import read_bounded
from .base import Dataset, Splits, make_dataset, require_size
from .download import download, missing, unpack
from .pickles import load_pickle

_SIZE, _CHANNELS = 32, 3
_PIXELS = _SIZE * _SIZE * _CHANNELS
_MAX_FILE_BYTES = 512 * 2**20  # CIFAR-100's training file, the largest, has 155 MB
_MAX_NAMES_BYTES = 2**20
_LONGEST_NAME = 200

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Layout:
    """One way the data set lies on disk. ``train``, ``test`` and ``names`` map file names to the official checksums;
    None where none is published.
    """

    folder: str
    binary: bool
    checksum: str  # hashlib's name of the algorithm
    train: dict[str, str]
    test: dict[str, str]
    names: tuple[str, str | None]  # file with the class names, its checksum
    label_bytes: int = 1  # binary: bytes before the pixels; the last of them is the label
    label_key: str = "labels"
    names_key: str = "label_names"

    def missing(self, folder: Path) -> list[str]:
        """The data files that ``folder`` lacks."""
        return [name for name in {**self.train, **self.test} if not (folder / name).is_file()]


@dataclass(frozen=True)
class Family:
    """CIFAR-10 or CIFAR-100: its names, its download and its layouts, the preferred one first."""

    name: str
    title: str
    classes: tuple[str, ...]
    url: str
    archive_md5: str
    layouts: tuple[Layout, Layout]


# Python layout: md5 of the archives and their files as published; torchvision has the same, which a test compares
_CIFAR10_PYTHON = Layout(
    folder="cifar-10-batches-py",
    binary=False,
    checksum="md5",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    names=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
)
_CIFAR100_PYTHON = Layout(
    folder="cifar-100-python",
    binary=False,
    checksum="md5",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    names=("meta", "7973b15100ade9c7d40fb424638fde48"),
    label_key="fine_labels",
    names_key="fine_label_names",
)

# Binary layout: sha1 of the unpacked files as published with Apache MXNet (gluon.data.vision.CIFAR10 and CIFAR100)
_CIFAR10_BINARY = Layout(
    folder="cifar-10-batches-bin",
    binary=True,
    checksum="sha1",
    train={
        "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    },
    test={"test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c"},
    names=("batches.meta.txt", None),
)
_CIFAR100_BINARY = Layout(
    folder="cifar-100-binary",
    binary=True,
    checksum="sha1",
    train={"train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"},
    test={"test.bin": "8fb6623e830365ff53cf14adec797474f5478006"},
    names=("fine_label_names.txt", None),
    label_bytes=2,
)


_URL = "https://www.cs.toronto.edu/~kriz/"


def family(name: str) -> Family:
    """The description of ``cifar10`` or ``cifar100``."""
    if name == "cifar10":
        title, classes, layouts = "CIFAR-10", _CIFAR10_CLASSES, (_CIFAR10_PYTHON, _CIFAR10_BINARY)
        archive, md5 = "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
    else:
        title, classes, layouts = "CIFAR-100", _CIFAR100_CLASSES, (_CIFAR100_PYTHON, _CIFAR100_BINARY)
        archive, md5 = "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
    return Family(name, title, tuple(classes.split()), _URL + archive, md5, layouts)


def load_cifar(name: str, folder: Path, *, download_missing: bool, image_size: int | None = None) -> Splits:
    """``cifar10`` or ``cifar100`` (fine labels) from ``folder``, as uint8 ``[N, 32, 32, 3]``.

    Looks for the Python layout, then the binary one, in their folders under ``folder`` or in ``folder`` itself; batches
    may hold any number of images as long as they all hold the same. When neither is there, unpacks the published
    archive that lies in ``folder``, if its checksum is right, or downloads it. ``official`` is True when
    every file has its published checksum.

    Raises:
        UserError: missing data, a missing, truncated or malformed file, labels out of range.
    """
    require_size(name, image_size, _SIZE)
    kind = family(name)
    found = _find(kind, folder)
    if found is None:
        expected, archive = folder / kind.layouts[0].folder, folder / Path(kind.url).name
        if archive.is_file():
            unpack(archive, kind.archive_md5, expected)
        elif not download_missing:
            raise missing(kind.title, expected, kind.url, "downloading is off")
        else:
            download(kind.title, kind.url, kind.archive_md5, expected, member=expected.name)
        found = expected, kind.layouts[0]
    where, layout = found
    lacking = layout.missing(where)
    if lacking:
        raise UserError(
            f"{kind.title} in {where} is incomplete: {', '.join(lacking)} missing; complete it, or delete the folder "
            "to have it downloaded again"
        )
    classes, names_official = _class_names(kind, where, layout)
    parts = [_load_part(where, layout, sums, classes, names_official) for sums in (layout.train, layout.test)]
    return Splits(name, parts[0], None, parts[1])


def cifar_classes(name: str, folder: Path) -> tuple[str, ...]:
    """The class names that ``load_cifar`` would give, from the names file of the copy in ``folder`` if there is one."""
    kind = family(name)
    found = _find(kind, folder)
    return kind.classes if found is None else _class_names(kind, *found)[0]


def _find(kind: Family, folder: Path) -> tuple[Path, Layout] | None:
    """The first complete copy, else the first incomplete one, else None."""
    candidates = [(folder / layout.folder, layout) for layout in kind.layouts]
    candidates += [(folder, layout) for layout in kind.layouts]
    lacking = [layout.missing(where) for where, layout in candidates]
    for candidate, names in zip(candidates, lacking, strict=True):
        if not names:
            return candidate
    for (where, layout), names in zip(candidates, lacking, strict=True):
        if len(names) < len(layout.train) + len(layout.test):
            return where, layout
    return None


def _load_part(where: Path, layout: Layout, sums: dict[str, str], classes: Sequence[str], official: bool) -> Dataset:
    """The training or the test part: the files in ``sums``, in order."""
    batches = []
    for name, expected in sums.items():
        content = _read(where / name, _MAX_FILE_BYTES)
        official = official and hashlib.new(layout.checksum, content, usedforsecurity=False).hexdigest() == expected
        planes, labels = (_parse_binary if layout.binary else _parse_python)(content, layout, str(where / name))
        _check_labels(labels, len(classes), str(where / name))
        batches.append((planes, labels))
    sizes = {name: len(labels) for name, (_, labels) in zip(sums, batches, strict=True)}
    if len(set(sizes.values())) > 1:
        raise UserError(
            f"{where}: the batches hold different numbers of images ("
            + ", ".join(f"{name} {size:,}" for name, size in sizes.items())
            + "); one is cut short, get the data again"
        )
    images = np.empty((sum(sizes.values()), _SIZE, _SIZE, _CHANNELS), np.uint8)
    start = 0
    for planes, _ in batches:
        part = images[start : start + len(planes)]
        for channel in range(_CHANNELS):
            part[..., channel] = planes[:, channel]
        start += len(planes)
    labels = np.concatenate([labels for _, labels in batches])
    return make_dataset(images, labels, classes, official=official, source=str(where))


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_bounded(path, limit)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the file and its permissions") from None


def _parse_binary(content: bytes, layout: Layout, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Records of ``label_bytes`` label bytes and 3,072 pixels → planes ``[n, 3, 32, 32]``, labels ``[n]``."""
    record = layout.label_bytes + _PIXELS
    if not content or len(content) % record:
        raise UserError(
            f"{source} has {len(content):,} bytes, not a multiple of {record:,} (one image): it is truncated, "
            "get the data again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    planes = rows[:, layout.label_bytes :].reshape(-1, _CHANNELS, _SIZE, _SIZE)
    return planes, rows[:, layout.label_bytes - 1].astype(np.int64)


def _parse_python(content: bytes, layout: Layout, source: str) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dict with ``data`` (array or bytes) and labels → planes ``[n, 3, 32, 32]``, labels ``[n]``."""
    entry = load_pickle(content, source)
    for key in ("data", layout.label_key):
        if key not in entry:
            raise UserError(f"{source} has no {key!r}: it is not a file of this data set, get the data again")
    data = entry["data"]
    if isinstance(data, bytes) and len(data) % _PIXELS == 0:
        data = np.frombuffer(data, np.uint8).reshape(-1, _PIXELS)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        shape = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise UserError(f"{source}: data is {shape}, expected uint8 [N, {_PIXELS}]; get the data again")
    return data.reshape(-1, _CHANNELS, _SIZE, _SIZE), _as_labels(entry[layout.label_key], len(data), source)


def _as_labels(values: Any, count: int, source: str) -> np.ndarray:
    """Labels from a list of ints, an array of ints, or bytes, as int64 ``[count]``."""
    if isinstance(values, list | bytes | np.ndarray) and np.ndim(values[:0]) == 1 and len(values) != count:
        raise UserError(f"{source}: {count:,} images but {len(values):,} labels; get the data again")
    if isinstance(values, list) and all(type(value) is int for value in values):
        return np.array(values, np.int64)
    if isinstance(values, bytes):
        return np.frombuffer(values, np.uint8).astype(np.int64)
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values.astype(np.int64)
    raise UserError(f"{source}: the labels are not a list of whole numbers; get the data again")


def _check_labels(labels: np.ndarray, num_classes: int, source: str) -> None:
    """Raise `UserError` with the file's name where a label is not in ``[0, num_classes)``."""
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise UserError(
            f"{source}: label {bad[0]} is out of range, allowed is 0…{num_classes - 1}; get the data again, or check "
            "that the file belongs to this data set"
        )


def _class_names(kind: Family, where: Path, layout: Layout) -> tuple[tuple[str, ...], bool]:
    """The class names in the layout's names file (the well-known ones without it), and whether they are official."""
    name, checksum = layout.names
    path = where / name
    if not path.is_file():
        return kind.classes, True
    content = _read(path, _MAX_NAMES_BYTES)
    listed: Any = content.split() if layout.binary else load_pickle(content, str(path)).get(layout.names_key)
    items = listed if isinstance(listed, list) else []
    # the count is checked first: a small file can hold one long name a million times
    fitting = len(items) == len(kind.classes) and all(isinstance(item, str | bytes) for item in items)
    names = tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in items if fitting)
    if not names or len(set(names)) != len(names) or max(map(len, names)) > _LONGEST_NAME:
        raise UserError(
            f"{path} does not list {len(kind.classes)} different class names, as {kind.title} has; "
            "get the data again, or delete the file to use the usual names"
        )
    if checksum is None:
        return names, names == kind.classes
    return names, hashlib.new(layout.checksum, content, usedforsecurity=False).hexdigest() == checksum
