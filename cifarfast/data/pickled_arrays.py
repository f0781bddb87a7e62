"""numpy arrays inside CIFAR pickles: what the interpreter in `pickles` may build of them, checked piece by piece."""

import math
from typing import Any

import numpy as np

INTEGER_TYPES = ("u1", "i1", "i2", "i4", "i8")


class Refused(Exception):
    """The file holds something that a CIFAR pickle does not."""


class PickledArray:
    """An array under construction: numpy pickles the empty array first and its contents with BUILD."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


class PickledDType:
    """A dtype under construction; ``kind`` is one of ``INTEGER_TYPES``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.byte_order = "|" if kind.endswith("1") else "<"


def text_of(value: Any) -> str | None:
    """A Python 2 or 3 string as ``str``; None for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value if isinstance(value, str) else None


def set_byte_order(target: PickledDType, state: Any) -> None:
    """numpy's dtype state is (version, byte order, None, None, None, −1, −1, flags): plain integers have no fields."""
    plain = isinstance(state, tuple) and len(state) >= 7 and all(item is None for item in state[2:5])
    order = text_of(state[1]) if plain else None
    if order is None or order not in ("<", ">", "|"):
        raise Refused("it has an array of a type other than plain integers")
    target.byte_order = order


def fill_array(state: Any) -> np.ndarray:
    """An array from numpy's state (version, shape, dtype, is Fortran order, bytes)."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise Refused("it has an array in an unknown form")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, PickledDType) or not isinstance(content, bytes):
        raise Refused("it has an array of a type other than plain integers")
    if not isinstance(shape, tuple) or len(shape) > 4 or any(type(size) is not int or size < 1 for size in shape):
        raise Refused("it has an array in an unknown form")
    kind = np.dtype(dtype.byte_order + dtype.kind)
    if math.prod(shape) * kind.itemsize != len(content):
        raise Refused(f"it has an array of shape {shape} with {len(content):,} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran is True else "C")
