"""The six EMNIST splits, from IDX files."""

import contextlib
import gzip
import hashlib
import math
import os
import string
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import cast

import numpy as np

from ..errors import UserError
from ..runtime.files import open_regular
from .base import Dataset, Splits, make_dataset, require_size
from .download import download, missing

EMNIST_SPLITS = {
    "byclass": "By_Class: 814,255 28×28 grey characters, 62 unbalanced classes",
    "bymerge": "By_Merge: the same images, 47 classes (look-alike lower-case letters merged with capitals)",
    "balanced": "Balanced: 131,600 characters, the 47 merged classes",
    "letters": "Letters: 26 letters, upper and lower case merged",
    "digits": "Digits: 280,000 digits",
    "mnist": "MNIST: 70,000 digits",
}
_SIZE = 28
_MOST_IMAGES = 1_000_000  # byClass, the largest, has 697,932 for training
_MAX_IDX_BYTES = 2**10 + _MOST_IMAGES * _SIZE * _SIZE
_BLOCK = 2**20
_MERGED = "cijklmopsuvwxyz"  # lower-case letters that look like their capitals


def emnist_classes(name: str) -> tuple[str, ...]:
    """The class names of ``emnist_<split>``."""
    split = name.removeprefix("emnist_")
    characters = string.digits + string.ascii_uppercase + string.ascii_lowercase
    if split in ("bymerge", "balanced"):
        return tuple(character for character in characters if character not in _MERGED)
    return {"byclass": tuple(characters), "letters": tuple(string.ascii_lowercase)}.get(split, tuple(string.digits))


@dataclass(frozen=True)
class _Source:
    """A folder that may hold a split's files, plain or .gz."""

    folder: Path

    def file(self, name: str) -> Path | None:
        return next((path for path in (self.folder / name, self.folder / f"{name}.gz") if path.is_file()), None)


def load_emnist(name: str, folder: Path, *, download_missing: bool, image_size: int | None = None) -> Splits:
    """``emnist_<split>`` from ``folder`` as uint8 ``[N, 28, 28, 1]``, characters upright, labels from 0.

    Looks for the IDX files (plain or .gz) in ``EMNIST/raw``, ``EMNIST``, ``raw`` or directly in ``folder``, unpacks
    them from a ``gzip.zip`` there, and downloads that archive to ``EMNIST/raw`` when there is neither.

    The only published checksum is the md5 of ``gzip.zip``. So ``official`` is True only when that archive lies beside
    the IDX files (or in the folder above) with the right md5 and each file agrees in length and CRC32 with its member;
    without the archive the files may well be the official ones, but nothing shows it.

    Raises:
        UserError: missing data, a missing, truncated or malformed file, labels out of range.
    """
    require_size(name, image_size, _SIZE)
    split = name.removeprefix("emnist_")
    source = _locate(split, folder, download_missing)
    classes = emnist_classes(name)
    archive = _official_archive(source.folder)
    parts = [_load_part(source, archive, split, part, classes) for part in ("train", "test")]
    return Splits(name, parts[0], None, parts[1])


def _file_names(split: str, part: str) -> tuple[str, str]:
    return f"emnist-{split}-{part}-images-idx3-ubyte", f"emnist-{split}-{part}-labels-idx1-ubyte"


def _locate(split: str, folder: Path, download_missing: bool) -> _Source:
    """Find the split's four files; unpack or download them when none is there."""
    names = [name for part in ("train", "test") for name in _file_names(split, part)]
    raw = folder / "EMNIST" / "raw"
    sources = [_Source(where) for where in (raw, folder / "EMNIST", folder / "raw", folder)]
    lacking = {source: [name for name in names if source.file(name) is None] for source in sources}
    for source in sources:
        if not lacking[source]:
            return source
    for source in sources:
        if len(lacking[source]) < len(names):
            raise UserError(
                f"EMNIST in {source.folder} is incomplete: {', '.join(lacking[source])} missing; add it, or delete "
                f"the other emnist-{split} files to have all of them downloaded or unpacked again"
            )
    for source in sources:
        archive = _official_archive(source.folder)
        if archive is not None:
            _unpack(archive, names, source.folder)
            return source
    from torchvision.datasets import EMNIST  # takes a second: only where something is to be downloaded

    if not download_missing:
        raise missing("EMNIST", raw, EMNIST.url, "downloading is off")
    download("EMNIST", EMNIST.url, EMNIST.md5, raw / "gzip.zip")
    _unpack(raw / "gzip.zip", names, raw)
    return sources[0]


def _official_archive(where: Path) -> Path | None:
    """``gzip.zip`` in ``where`` or the folder above when it has the official md5."""
    for path in (where / "gzip.zip", where.parent / "gzip.zip"):
        if path.is_file():
            from torchvision.datasets import EMNIST

            with path.open("rb") as file:
                if hashlib.file_digest(file, "md5").hexdigest() == EMNIST.md5:
                    return path
    return None


def _member(archive: zipfile.ZipFile, name: str) -> str:
    found = [member for member in archive.namelist() if Path(member).name == f"{name}.gz"]
    if not found:
        raise UserError(f"{archive.filename} has no {name}.gz; get the archive again")
    return found[0]


def _unpack(path: Path, names: list[str], folder: Path) -> None:
    """Write the members ``names`` of ``gzip.zip``, decompressed, to ``folder``; each appears whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path) as archive:
            for name in names:
                with archive.open(_member(archive, name)) as packed, gzip.open(packed) as plain:
                    handle, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=folder)
                    try:
                        with os.fdopen(handle, "wb") as out:
                            while block := plain.read(1 << 20):
                                out.write(block)
                        Path(temporary).replace(folder / name)
                    finally:
                        Path(temporary).unlink(missing_ok=True)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"cannot unpack {path} into {folder}: {error}; check the disk, or get it again") from None


def _load_part(source: _Source, archive: Path | None, split: str, part: str, classes: tuple[str, ...]) -> Dataset:
    names = _file_names(split, part)
    (images, image_crc), (labels, label_crc) = (
        _read_idx(cast(Path, source.file(name)), dimensions) for name, dimensions in zip(names, (3, 1), strict=True)
    )
    where = str(source.file(names[1]))
    official = archive is not None and all(
        _trailer(archive, name) == check for name, check in zip(names, (image_crc, label_crc), strict=True)
    )
    numbers = labels.astype(np.int64)
    if split == "letters":
        numbers -= 1  # this split alone counts from 1
    # the files store every image transposed
    upright = np.ascontiguousarray(images.swapaxes(1, 2))[..., None]
    return make_dataset(upright, numbers, classes, official=official, source=where)


def _read_idx(path: Path, dimensions: int) -> tuple[np.ndarray, tuple[int, int]]:
    """An IDX file of uint8, plain or .gz: the array and (CRC32, length) of the decompressed file.

    Memory is one byte a value that the file really holds, and at most ``_MAX_IDX_BYTES``.
    """
    try:
        with open_regular(path, _MAX_IDX_BYTES) as raw, _decompressed(raw, path) as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise UserError(f"{path} is not an IDX file of {dimensions} dimensions; get the data again")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            if shape[0] > _MOST_IMAGES:
                raise UserError(f"{path} claims {shape[0]:,} images, far more than EMNIST has; get the data again")
            if dimensions == 3 and shape[1:] != (_SIZE, _SIZE):
                raise UserError(f"{path}: images are {shape[1]}×{shape[2]}, EMNIST's are 28×28; get the data again")
            count = math.prod(shape)
            content, got = np.empty(count, np.uint8), 0  # what is not written to takes no memory
            while got < count and (block := file.readinto(content.data[got : got + _BLOCK])):
                got += block
            left_over = file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; get the data again") from None
    if got < count or left_over:
        kind = "is truncated" if got < count else "has bytes left over"
        raise UserError(f"{path} {kind}: its header promises {count:,} values; get the data again")
    check = zlib.crc32(content.data, zlib.crc32(header)), len(header) + count
    return content.reshape(shape), check


def _decompressed(raw: BufferedReader, path: Path) -> contextlib.AbstractContextManager[BufferedIOBase]:
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else contextlib.nullcontext(raw)


def _trailer(path: Path, name: str) -> tuple[int, int]:
    """(CRC32, length) that the .gz member ``name`` of the archive records of its decompressed content."""
    with zipfile.ZipFile(path) as archive:
        crc, length = struct.unpack("<II", archive.read(_member(archive, name))[-8:])
    return crc, length
