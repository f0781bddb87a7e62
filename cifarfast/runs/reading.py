"""The one way in which files of a run folder are read: bounded, from regular files, and checked once.

A folder may come from somebody else. Whatever is wrong with a file of it becomes a ``UserError`` that names the file.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import UserError
from ..runtime.files import read_bounded

MEBI = 2**20
MOST_BYTES = {
    "config.toml": MEBI,
    "environment.json": 4 * MEBI,
    "manifest.json": MEBI,
    "result.json": 16 * MEBI,
    "metrics.csv": 64 * MEBI,
    "timing.csv": 64 * MEBI,
    "reproduction.json": 64 * MEBI,
    "state.json": 128 * MEBI,
    "predictions.npz": 1024 * MEBI,
    ".safetensors": 16 * 1024 * MEBI,
}
"""The largest file of each name, or suffix, that is read."""
MOST_DIGITS = 20  # of a whole number: 64 bits
MOST_DEPTH = 32  # of lists and tables in each other

Model = TypeVar("Model", bound=BaseModel)


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn whatever a parser raises inside into a UserError that names ``path``: what it read was not written by us."""
    try:
        yield
    except UserError:
        raise
    except (Exception, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"cannot read {path}: {reason}") from error


def read_file(path: Path) -> bytes:
    """The contents of a regular file of a run folder, at most as long as ``MOST_BYTES`` says.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is a pipe, a device or a folder, too large, or cannot be read.
    """
    most = MOST_BYTES[path.name if path.name in MOST_BYTES else path.suffix]
    try:
        return read_bounded(path, most)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def parse_json(data: bytes, path: Path, *, infinity: bool = False) -> Any:
    """The values of a JSON text in UTF-8: finite numbers, whole ones of 64 bits, lists and tables at most 32 deep.

    Args:
        data: the text.
        path: what to call it in messages.
        infinity: whether ``Infinity`` is a number, as in the state of a checkpoint.

    Raises:
        UserError: it is anything else.
    """

    def constant(name: str) -> float:
        if infinity and name == "Infinity":
            return math.inf
        raise ValueError(f"{name} is no number")

    try:
        value = json.loads(data.decode(), parse_constant=constant, parse_float=_finite, parse_int=_whole)
        _check_depth(value, MOST_DEPTH)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON that can be read: {' '.join(str(error).split())[:200]}") from None
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number has {len(text):,} digits")
    return int(text)


def _check_depth(value: Any, most: int) -> None:
    if most < 0:
        raise ValueError(f"lists and tables are more than {MOST_DEPTH} deep")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, most - 1)


def check(model: type[Model], values: Any, path: Path) -> Model:
    """The values as a ``model``, whose names, types and ranges they must have.

    Raises:
        UserError: a line that names ``path``, and the entry or the entries that are missing.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path} is no table of entries")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        missing = [".".join(map(str, each["loc"])) for each in problems if each["type"] == "missing"]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}: was it written by another version?") from None
        first = problems[0]
        name = ".".join(map(str, first["loc"])) or "it"
        raise UserError(f"{path}: {name} = {_short(first['input'])}: {first['msg']}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
