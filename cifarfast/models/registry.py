"""The model registry: names, families of names, and what builds each."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

from cifarfast.errors import UserError, nearest

Builder = Callable[..., nn.Module]
BuilderT = TypeVar("BuilderT", bound=Builder)


@dataclass(frozen=True)
class Entry:
    """One registered model.

    ``build(num_classes=…, in_channels=…, image_size=…, **options)`` makes it; ``min_image_size`` is the smallest side
    in pixels for which every feature map keeps at least one pixel.
    """

    name: str
    description: str
    build: Builder
    min_image_size: int = 1
    aliases: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Names that follow a pattern: the pattern's named groups are integers passed to ``build``."""

    pattern: re.Pattern[str]
    form: str
    description: str
    build: Builder
    options: dict[str, Any] = field(default_factory=dict)


_ENTRIES: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}
_FAMILIES: list[Family] = []


def register(
    name: str, description: str, *, min_image_size: int = 1, aliases: Iterable[str] = (), **options: Any
) -> Callable[[BuilderT], BuilderT]:
    """Decorate a class or function so that ``create_model(name)`` builds it.

    Args:
        name: the public name; one name is one model.
        description: one line for listings.
        min_image_size: smallest image side in pixels the model can take.
        aliases: further names, accepted but not listed.
        options: keyword arguments passed to the builder, so that one class serves several names.
    """
    entry_aliases = tuple(aliases)

    def decorate(build: BuilderT) -> BuilderT:
        for new in (name, *entry_aliases):
            assert new not in {*_ENTRIES, *_ALIASES}, f"model {new!r} is registered twice"
        _ENTRIES[name] = Entry(name, description, build, min_image_size, entry_aliases, options)
        _ALIASES.update(dict.fromkeys(entry_aliases, name))
        return build

    return decorate


def register_family(pattern: str, form: str, description: str, **options: Any) -> Callable[[BuilderT], BuilderT]:
    """Decorate a builder so that every name that matches ``pattern`` builds it.

    ``form`` shows the pattern to a reader, ``"wrn{depth}_{width}"``; ``description`` may hold the same fields.
    """

    def decorate(build: BuilderT) -> BuilderT:
        _FAMILIES.append(Family(re.compile(pattern), form, description, build, options))
        return build

    return decorate


def find_entry(name: str) -> Entry:
    """The entry of a registered name, an alias or a name that follows a family's pattern.

    Raises:
        UserError: the name is unknown; the message has the nearest known one.
    """
    if name in _ALIASES:
        name = _ALIASES[name]
    if name in _ENTRIES:
        return _ENTRIES[name]
    for family in _FAMILIES:
        match = family.pattern.fullmatch(name)
        if match:
            numbers = {key: int(value) for key, value in match.groupdict().items()}
            return Entry(
                name, family.description.format(**numbers), family.build, options={**family.options, **numbers}
            )
    forms = ", ".join(family.form for family in _FAMILIES)
    hint = nearest(name, [*_ENTRIES, *_ALIASES]) or (
        f"; `cifarfast models` lists all, and {forms}, torchvision:NAME and timm:NAME are accepted"
    )
    raise UserError(f"unknown model {name!r}{hint}")


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted: ``list_models("wrn*")``.

    A name is also listed when one of its aliases matches. Families and other libraries' models are not enumerated.
    """
    return sorted(
        entry.name
        for entry in _ENTRIES.values()
        if any(fnmatchcase(name, pattern) for name in (entry.name, *entry.aliases))
    )
