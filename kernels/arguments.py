"""What a caller passed that is not what the function's annotations say: named, once a call has failed."""

import functools
import inspect
import numbers
import re
import types
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_ACCEPTED: dict[Any, tuple[type, ...]] = {
    bool: (bool, torch.SymBool),
    int: (numbers.Integral, torch.SymInt),
    float: (numbers.Real, torch.SymFloat, torch.SymInt),
}


def names_misfits(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which raises a TypeError that names the argument where a call fails on one of another type.

    A call that succeeds costs nothing but the call around it: the arguments are compared with the annotations only
    after a failure, and where all of them fit, or the function has named one itself, the failure is raised as it was.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if misfit := _misfit(error, function, args, kwargs):
                raise misfit from None
            raise

    return call


def _misfit(error: Exception, function: Callable[..., Any], args: Any, kwargs: Any) -> Exception | None:
    """What to raise about the first argument whose type is not the annotated one, or a number beyond 64 bits."""
    signature, hints = inspect.signature(function), get_type_hints(function)
    named_already = isinstance(error, ValueError) and str(error).partition(" ")[0] in signature.parameters
    try:
        given = {} if named_already else signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None  # Python's own message names what is missing or too much
    for name, value in given.items():
        if name in hints and not _fits(value, hints[name]):
            wanted = re.sub(r"\b(\w+\.)+", "", inspect.formatannotation(hints[name])).replace(" | ", " or ")
            found = f"{list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            return TypeError(f"{name} must be {wanted}, got {type(value).__name__} {found:.40}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return ValueError(f"{name} must be a number of 64 bits, got {value}")
    return None


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Sequence:
        items = isinstance(value, Sequence) and not isinstance(value, str)
        return items and all(_fits(item, *get_args(hint)) for item in value)
    kinds = _ACCEPTED.get(hint, get_origin(hint) or hint)
    return isinstance(value, kinds) if isinstance(kinds, type | tuple) else True
