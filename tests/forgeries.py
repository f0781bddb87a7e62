"""Damaged and forged files of run folders: what each of them holds, by the name of the file."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up_runs import rewrite_in_checkpoint
from safetensors.torch import load, save

from cifarfast.runs.reading import MOST_BYTES

DEEP = "[" * 5000 + "]" * 5000
# none of these is what any entry may be
WRONG_VALUES = ("null", "[]", "{}", '"x"', "-1", "NaN", "-Infinity", "1e999", "9" * 5000, "true", "[[0]]", DEEP)


@dataclass(frozen=True)
class Forgery:
    """A change of one file of a run folder.

    ``forge`` gives the file's bytes from those that were there. ``sealed`` also renews the checksums, as one who wants
    to deceive would.
    """

    name: str
    file: str
    forge: Callable[[bytes], bytes]
    sealed: bool = False

    def apply(self, run: Path) -> None:
        """Change the file in ``run``."""
        path = run / self.file
        data = self.forge(path.read_bytes())
        if not self.sealed:
            path.write_bytes(data)
        elif path.parent == run:
            path.write_bytes(data)
            unseal(run)
        else:
            rewrite_in_checkpoint(path.parent, path.name, data)


def unseal(run: Path) -> None:
    """Take the checksums out of a result, as versions before them wrote it."""
    path = run / "result.json"
    try:
        result = json.loads(path.read_bytes())
        del result["checksums"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    path.write_text(json.dumps(result))


def entries(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a JSON document: of every table the entries, of every list the first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*at, key)
        yield from entries(inner, (*at, key))


def replaced(place: tuple[Any, ...], value: str | None) -> Callable[[bytes], bytes]:
    """A JSON document with another text at a place, or without the entry."""

    def forge(data: bytes) -> bytes:
        document = inner = json.loads(data)
        for key in place[:-1]:
            inner = inner[key]
        if value is None:
            del inner[place[-1]]
            return json.dumps(document).encode()
        inner[place[-1]] = "<here>"
        return json.dumps(document).replace('"<here>"', value).encode()

    return forge


def json_forgeries(file: str, data: bytes, *, sealed: bool, skip: tuple[str, ...] = ()) -> Iterator[Forgery]:
    """Every entry of a JSON file left out, and with values that it cannot have, each entry with a few of them."""
    for number, place in enumerate(entries(json.loads(data))):
        if place[0] in skip:
            continue
        values = [None, *(WRONG_VALUES[(3 * number + k) % len(WRONG_VALUES)] for k in range(3))]
        for value in values:
            name = f"{file} {'.'.join(map(str, place))} = {'nothing' if value is None else value[:9]}"
            yield Forgery(name, file, replaced(place, value), sealed)


def text_forgeries(file: str) -> Iterator[Forgery]:
    """Bytes that are no file of ours at all, and damage that knows no format."""
    whole: dict[str, bytes] = {
        "empty": b"",
        "null": b"null",
        "a list": b"[]",
        "deep": DEEP.encode(),
        "not UTF-8": b"\xff\xfe\x00",
        "NULs": bytes(100),
        "a long line": b"a," * 200_000,
    }
    for name, data in whole.items():
        yield Forgery(f"{file} {name}", file, lambda _, data=data: data)
    for part in (0.3, 0.9):
        yield Forgery(f"{file} cut at {part}", file, lambda data, part=part: data[: int(len(data) * part)])
    for part in (0.2, 0.5, 0.8):
        yield Forgery(f"{file} flipped at {part}", file, lambda data, part=part: flipped(data, int(len(data) * part)))


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one bit turned over."""
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


TOML = {
    "deep": b"a = " + b"[" * 5000 + b"]" * 5000,
    "deep tables": b"a" + b".a" * 5000 + b" = 1",
    "long integer": b"seed = " + b"9" * 5000,
    "long hexadecimal": b"seed = 0x" + b"f" * 5000,
    "infinite": b"lr = inf",
    "not a number": b"lr = nan",
    "a date": b"seed = 1979-05-27",
    "a table for a setting": b"[seed]\na = 1",
    "about is no table": b"about = 3",
    "an ensemble without members": b"[ensemble]",
    "an ensemble of numbers": b"ensemble = 3",
    "of tomorrow": b"tomorrow = 1",
    "another model": b'arch = "nope"',
}


def toml_forgeries() -> Iterator[Forgery]:
    """Forged ``config.toml``."""
    for name, data in TOML.items():
        yield Forgery(f"config.toml {name}", "config.toml", lambda _, data=data: data)


def table_forgeries(file: str) -> Iterator[Forgery]:
    """Forged ``metrics.csv`` and ``timing.csv``, without checksums."""

    def cell(text: bytes) -> Callable[[bytes], bytes]:
        return lambda data: data.replace(b"\n1,", b"\n1,").replace(data.split(b"\n")[2].split(b",")[1], text, 1)

    changes: dict[str, Callable[[bytes], bytes]] = {
        **{f"a cell is {text.decode()}": cell(text) for text in (b"nan", b"inf", b"-1", b"abc", b"1e999")},
        "a row twice": lambda data: data + data.splitlines(keepends=True)[-1],
        "rows in another order": lambda data: b"".join(data.splitlines(keepends=True)[i] for i in (0, 2, 1)),
        "a cell more": lambda data: data.rstrip() + b",5\n",
        "a cell less": lambda data: data.rstrip().rpartition(b",")[0] + b"\n",
        "a column twice": lambda data: b"epoch," + data,
        "without a header": lambda data: data.split(b"\n", 1)[1],
        "an open quote": lambda data: data + b'"',
        "a percentage of 1000": lambda data: data.replace(b"epoch", b"x_percent", 1).replace(b"\n1,", b"\n1000,"),
    }
    for name, forge in changes.items():
        yield Forgery(f"{file} {name}", file, forge, sealed=True)


def archive(**arrays: np.ndarray) -> bytes:
    """A .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def archive_of(members: dict[str, bytes], *, encrypted: bool = False) -> bytes:
    """A ZIP file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    data = buffer.getvalue()
    if encrypted:  # bit 0 of the flags of each header
        data = data.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01")
        data = data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    return data


def header(shape: str, descr: str = "<f4", data: bytes = b"") -> bytes:
    """A .npy file whose header says what it likes."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def prediction_forgeries() -> Iterator[Forgery]:
    """Forged ``predictions.npz``, without checksums."""

    def other(change: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]) -> Callable[[bytes], bytes]:
        def forge(data: bytes) -> bytes:
            with np.load(io.BytesIO(data)) as arrays:
                return archive(**change(arrays["logits"], arrays["labels"]))

        return forge

    def pair(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": logits, "labels": labels}

    changes: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]] = {
        "without labels": lambda x, y: {"logits": x},
        "with another array": lambda x, y: {**pair(x, y), "more": x},
        "objects": lambda x, y: pair(x.astype(object), y),
        "text": lambda x, y: pair(x.astype("U9"), y),
        "complex": lambda x, y: pair(x.astype(complex), y),
        "whole numbers": lambda x, y: pair(x.astype(np.int32), y),
        "bool": lambda x, y: pair(x > 0, y),
        "one column": lambda x, y: pair(x[:, :1], 0 * y),
        "a vector": lambda x, y: pair(x[:, 0], y),
        "three dimensions": lambda x, y: pair(x[None], y),
        "no images": lambda x, y: pair(x[:0], y[:0]),
        "fewer labels": lambda x, y: pair(x, y[1:]),
        "a number": lambda x, y: pair(x, np.array(3)),
        "labels as floats": lambda x, y: pair(x, y.astype(np.float32)),
        "negative labels": lambda x, y: pair(x, y - 1),
        "labels above": lambda x, y: pair(x, y + 1),
        "labels of 64 bits": lambda x, y: pair(x, (y - 1).astype(np.uint64)),
        "NaN": lambda x, y: pair(np.where(x == x.max(), np.nan, x), y),
        "infinite": lambda x, y: pair(np.where(x == x.max(), np.inf, x), y),
        "too large": lambda x, y: pair(x.astype(np.float64) * 1e300, y),
        "right everywhere": lambda x, y: pair(np.eye(x.shape[1], dtype=np.float32)[y], y),
        "one more is wrong": lambda x, y: pair(np.concatenate([-x[:1], x[1:]]), y),
        "the other byte order": lambda x, y: pair(x.astype(">f4"), y.astype(">i8")),
        "by columns": lambda x, y: pair(np.asfortranarray(x), y),
        "double": lambda x, y: pair(x.astype(np.float64), y.astype(np.int16)),
        "long double": lambda x, y: pair(x.astype(np.longdouble), y),
    }
    for name, change in changes.items():
        yield Forgery(f"predictions.npz {name}", "predictions.npz", other(change), sealed=True)
    labels = header("(2,)", "<i8", bytes(16))
    members: dict[str, bytes] = {
        "a header of 10^11 values": header("(50000000000, 2)"),
        "a header that overflows": header("(4611686018427387904, 4)"),
        "a negative shape": header("(-1, 2)", data=bytes(16)),
        "less data than its header says": header("(2, 2)", data=bytes(8)),
        "more data than its header says": header("(2, 2)", data=bytes(24)),
        "a header that runs code": header("__import__('os').getcwd()"),
        "a type of objects": header("(2, 2)", "|O", b"cos\nsystem\n(S'true'\ntR."),
        "a header that is too long": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f",
        "no header": b"\x93NUM",
    }
    for name, logits in members.items():
        data = archive_of({"logits.npy": logits, "labels.npy": labels})
        yield Forgery(f"predictions.npz {name}", "predictions.npz", lambda _, data=data: data, sealed=True)
    good = {"logits.npy": header("(2, 2)", data=bytes(16)), "labels.npy": labels}
    locked = archive_of(good, encrypted=True)
    yield Forgery("predictions.npz encrypted", "predictions.npz", lambda _: locked, sealed=True)
    tree = archive_of({f"../{name}": data for name, data in good.items()})
    yield Forgery("predictions.npz with paths", "predictions.npz", lambda _: tree, sealed=True)


def tensor_forgeries(file: str) -> Iterator[Forgery]:
    """Forged weights, with the checksums that belong to them."""
    Tensors = dict[str, torch.Tensor]

    def other(change: Callable[[Tensors], Tensors]) -> Callable[[bytes], bytes]:
        return lambda data: save(change(load(data)))

    def largest(tensors: Tensors, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
        name = max(tensors, key=lambda key: tensors[key].numel())
        return tensors | {name: change(tensors[name]).contiguous()}

    changes: dict[str, Callable[[Tensors], Tensors]] = {
        "none": lambda tensors: {},
        "one more": lambda tensors: tensors | {"more": torch.zeros(2)},
        "of int32": lambda tensors: largest(tensors, lambda t: t.int()),
        "of float16": lambda tensors: largest(tensors, lambda t: t.half()),
        "of float64": lambda tensors: largest(tensors, lambda t: t.double()),
        "of another shape": lambda tensors: largest(tensors, lambda t: t[:-1]),
        "transposed": lambda tensors: largest(tensors, lambda t: t.flatten()),
    }
    if file.endswith("model.safetensors"):
        changes["NaN"] = lambda tensors: largest(tensors, lambda t: t * torch.nan)
        changes["infinite"] = lambda tensors: largest(tensors, lambda t: t / 0)
    for name, change in changes.items():
        yield Forgery(f"{file} {name}", file, other(change), sealed=True)
    raw: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda data: b"",
        "cut": lambda data: data[: len(data) // 2],
        "longer": lambda data: data + b"\0",
        "a header of 2^63 bytes": lambda data: b"\xff" * 7 + b"\x7f" + data[8:],
        "a header that is no JSON": lambda data: data[:8] + b"[" + data[9:],
    }
    for name, forge in raw.items():
        yield Forgery(f"{file} {name}", file, forge, sealed=True)


SPECIAL_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "too large": lambda path: _sparse(path),
}


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MOST_BYTES[path.name if path.name in MOST_BYTES else path.suffix] + 1)
