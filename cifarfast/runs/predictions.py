"""``predictions.npz``: logits and labels of the test set, read without trusting what the file says of itself."""

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ..errors import UserError
from .reading import MOST_BYTES, damage


def pack_predictions(logits: np.ndarray, labels: np.ndarray) -> bytes:
    """Logits float32 [N, C] and labels int64 [N] as the file's bytes; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=logits, labels=labels)
    return buffer.getvalue()


def unpack_predictions(data: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [N, C], finite, and labels int64 [N] in 0…C−1, with N ≥ 1 and C ≥ 2.

    Raises:
        UserError: the bytes are anything else; names ``path``.
    """
    with damage(path), zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = sorted(archive.namelist())
        if names != ["labels.npy", "logits.npy"]:
            raise UserError(f"cannot read {path}: it holds {', '.join(names)[:200]}, not labels and logits")
        logits, labels = _read(archive, "logits", path), _read(archive, "labels", path)
    if logits.dtype.kind != "f" or labels.dtype.kind not in "iu":
        raise UserError(f"{path}: logits {logits.dtype} and labels {labels.dtype} must be floats and whole numbers")
    check_predictions(logits, labels, where=f"{path}: ")
    with np.errstate(over="ignore"):
        single = logits.astype(np.float32)
    check_predictions(single, labels, where=f"{path}: ")
    return single, labels.astype(np.int64)


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        if npy.read_magic(file) != (1, 0):  # whose header has at most 64 KiB
            raise UserError(f"cannot read {path}: {name} has another format than NumPy's first")
        shape, by_columns, dtype = npy.read_array_header_1_0(file)
        if dtype.kind not in "fiu" or len(shape) > 2 or any(size < 0 for size in shape):
            raise UserError(f"{path}: {name} {list(shape)} of {dtype} are not those of a run")
        return _numbers(file, shape, dtype, f"{path}: {name}").reshape(shape, order="F" if by_columns else "C")


def _numbers(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, what: str) -> np.ndarray:
    """As many numbers as the shape says, and no byte more in the file."""
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES["predictions.npz"]:
        raise UserError(f"{what} has {size:,} bytes by its header, the most are {MOST_BYTES['predictions.npz']:,}")
    data = file.read(size)
    if len(data) != size or file.read(1):
        raise UserError(f"{what} has not the {size:,} bytes that its header says")
    return np.frombuffer(data, dtype)


def check_predictions(
    logits: np.ndarray, labels: np.ndarray, num_classes: int | None = None, *, where: str = ""
) -> None:
    """Raise a UserError unless logits are finite [N, C ≥ 2] and labels whole numbers [N] in 0…C−1, with N ≥ 1.

    ``where`` stands at the beginning of the message.
    """
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels) or len(labels) == 0:
        raise UserError(
            f"{where}logits {list(logits.shape)} and labels {list(labels.shape)} must be [N, C] and [N] with N ≥ 1"
        )
    classes = logits.shape[1]
    if num_classes is not None and classes != num_classes:
        raise UserError(f"{where}the logits are for {classes} classes, the data have {num_classes}")
    if classes < 2:
        raise UserError(f"{where}the logits are for {classes} class; at least 2 are needed")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{where}labels must be whole numbers in 0…{classes - 1}, not {labels.min()}…{labels.max()}")
    if not np.isfinite(logits).all():
        raise UserError(f"{where}some logits are not finite: the model diverged")


def accuracy_bounds(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest accuracy in percent that the logits can be said to have.

    They differ by the samples whose label has the highest logit together with another class: which of equals is taken
    for the prediction depends on the device.
    """
    own = logits[np.arange(len(labels)), labels]
    highest = logits.max(axis=1)
    alone = (logits == highest[:, None]).sum(axis=1) == 1
    right = own == highest
    return 100 * float((right & alone).mean()), 100 * float(right.mean())
