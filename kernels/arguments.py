"""What a caller passed that is not what the function's annotations say: named, once a call has failed."""

import functools
import inspect
import numbers
import types
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_NUMBERS: dict[Any, tuple[type, ...]] = {
    bool: (bool, torch.SymBool),
    int: (numbers.Integral, torch.SymInt),
    float: (numbers.Real, torch.SymFloat, torch.SymInt),
}


def names_misfits(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which raises a TypeError that names the argument where a call fails on one of another type.

    A call that succeeds costs nothing but the call around it: the arguments are compared with the annotations only
    after a failure, and where all of them fit the failure is raised as it was.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not _names_argument(error, function):
                raise_misfit(function, *args, **kwargs)
            raise

    return call


def _names_argument(error: Exception, function: Callable[..., Any]) -> bool:
    """Whether the function's own check raised it."""
    return isinstance(error, ValueError) and str(error).partition(" ")[0] in inspect.signature(function).parameters


def raise_misfit(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Raise an error that names the first argument whose type is not the annotated one, or too large; else return."""
    hints = get_type_hints(function)
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return  # Python's own message names what is missing or too much
    for name, value in bound.arguments.items():
        if name in hints and not _fits(value, hints[name]):
            raise TypeError(f"{name} must be {_name(hints[name])}, got {_shown(value)}") from None
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} must be a number of 64 bits, got {value}") from None


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if hint is None:
        return value is None
    if get_origin(hint) is Sequence:
        items = isinstance(value, Sequence) and not isinstance(value, str)
        return items and all(_fits(item, *get_args(hint)) for item in value)
    kinds = _NUMBERS.get(hint, get_origin(hint) or hint)
    return isinstance(value, kinds) if isinstance(kinds, type | tuple) else True


def _name(hint: Any) -> str:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return " or ".join(
        "None" if option is type(None) else getattr(option, "__name__", str(option)) for option in options
    )


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} {value.dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 40 else type(value).__name__
