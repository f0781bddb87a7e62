"""Checks of transform settings; every failure is a UserError that says what is allowed."""

import math
from collections.abc import Sequence
from typing import Any

from cifarfast.errors import UserError, nearest


def number(owner: str, name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Return ``value`` as a float if it is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        bound = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise UserError(f"{owner}: {name} must be a number {bound}, got {value!r}")
    return float(value)


def integer(owner: str, name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` if it is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        bound = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{owner}: {name} must be an integer {bound}, got {value!r}")
    return value


def choice(owner: str, name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        raise UserError(f"{owner}: {name} must be one of {', '.join(allowed)}, got {value!r}{hint}")
    return str(value)


def probability(owner: str, value: Any, name: str = "p") -> float:
    """Return ``value`` if it is a probability."""
    return number(owner, name, value, 0.0, 1.0)


def positive(owner: str, name: str, value: Any) -> float:
    """Return ``value`` if it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{owner}: {name} must be a number above 0, got {value!r}")
    return float(value)


def pair(owner: str, name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """Return a pair of numbers in [low, high]."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise UserError(f"{owner}: {name} must be a pair of numbers, got {value!r}")
    return number(owner, name, value[0], low, high), number(owner, name, value[1], low, high)


def interval(owner: str, name: str, value: Any, low: float, high: float = math.inf) -> tuple[float, float]:
    """Return a (low, high) pair within the given bounds."""
    first, second = pair(owner, name, value, low, high)
    if first > second:
        raise UserError(f"{owner}: {name} must be a pair (low, high) with low ≤ high, got {value!r}")
    return first, second
