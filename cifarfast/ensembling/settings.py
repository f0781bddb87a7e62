"""The settings of an ensemble, and the recipe files of ensembles (TOML, beside this file).

A recipe file has an ``[ensemble]`` table: ``members``, names of recipes or paths of run folders, and any field of
``EnsembleSettings``; and optionally an ``[about]`` table as other recipes have. The ``config.toml`` of an ensemble's
run folder is such a file with everything resolved.
"""

import dataclasses
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from annotated_types import Ge, Gt, Lt
from pydantic import ConfigDict, TypeAdapter

from ..errors import UserError, nearest
from ..recipes.recipe import (
    BYTES_AS_CHARACTERS,
    CHARACTERS_AS_BYTES,
    About,
    check_values,
    parse_toml,
    read_recipe_file,
)

OPTIMISTIC = "optimistic: fitted on the test set itself"


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings:
    """How the members of an ensemble are combined."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    method: Literal["vote", "stack"] = "vote"
    """vote: the weighted mean of the members' probabilities; stack: a 3-layer perceptron on the members' logits."""
    weights: Literal["equal", "search"] | tuple[float, ...] = "equal"
    """Of the votes: equal, one number a member, or search for those with the lowest loss on the fitting images."""
    fit_on: Literal["held-out", "test-as-reported"] = "held-out"
    """Images that weights or perceptron are fitted on: those held out of the members' training, or the test set, which
    some sources do and which makes the test accuracy optimistic."""
    hidden: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (128, 64)
    """stack: units of the two hidden layers."""
    epochs: Annotated[int, Ge(1)] = 20
    """stack: passes over the fitting images."""
    batch_size: Annotated[int, Ge(1)] = 128
    """stack: images a step."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """stack: Adam's learning rate, which falls to 0 along a cosine."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """stack: added to the gradient as weight_decay · w."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    """stack: rate after each hidden layer."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 42
    """stack: seeds initialisation, order and dropout."""

    def __post_init__(self) -> None:
        if isinstance(self.weights, str):
            if self.method == "stack" and self.weights == "search":
                raise UserError('weights = "search" is for the method vote: stack fits a perceptron instead')
        elif self.method == "stack":
            raise UserError("weights are for the method vote: stack fits a perceptron instead")
        else:
            check_weights(self.weights)
        if self.fit_on == "test-as-reported" and not self.fits:
            raise UserError(
                'fit_on = "test-as-reported" is for weights = "search" and method = "stack": nothing is fitted here'
            )

    @property
    def fits(self) -> bool:
        """Whether anything is fitted to labels."""
        return self.method == "stack" or self.weights == "search"

    @property
    def optimistic(self) -> bool:
        """Whether the test accuracy is optimistic because the test set was fitted."""
        return self.fits and self.fit_on == "test-as-reported"


def check_weights(weights: tuple[float, ...]) -> None:
    """Raise a UserError unless the weights are finite, at least 0 and not all 0."""
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"a weight is {weight}: weights must be finite and at least 0")
    if not sum(weights) > 0:
        raise UserError(f"the weights are {list(weights)}: at least one must be above 0")


@dataclass(frozen=True)
class EnsembleRecipe:
    """A recipe of an ensemble; ``members`` are names of recipes or paths of run folders."""

    name: str
    members: tuple[str, ...]
    settings: EnsembleSettings
    about: About


_SETTINGS = TypeAdapter(EnsembleSettings)
_MEMBERS = TypeAdapter(tuple[str, ...])
_ABOUT = TypeAdapter(About)


def make_settings(values: dict[str, Any], where: str) -> EnsembleSettings:
    """Build settings from plain values, checking names, types and ranges.

    Raises:
        UserError: one line that starts with ``where`` and names the setting, its value and what is allowed.
    """
    known = [f.name for f in dataclasses.fields(EnsembleSettings)]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown setting {key!r}{nearest(key, known)}")
    weights = values.get("weights", "equal")
    if weights not in ("equal", "search") and not (isinstance(weights, list | tuple) and all(map(_is_number, weights))):
        raise UserError(f"{where}: weights = {weights!r}: must be 'equal', 'search' or a list of numbers")
    if isinstance(weights, list | tuple):  # JSON, which the check goes through, has no nan to complain about
        try:
            check_weights(tuple(weights))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return check_values(_SETTINGS, values, where)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def ensemble_recipe_names() -> list[str]:
    """Names of the ensemble recipes that come with the package, sorted."""
    folder = resources.files(__package__)
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_ensemble_recipe(name_or_file: str) -> EnsembleRecipe:
    """Read an ensemble recipe by its name, or from a TOML file (anything that ends in .toml or has a slash).

    Raises:
        UserError: there is none of this name, or the file cannot be read or is wrong.
    """
    if name_or_file.endswith(".toml") or "/" in name_or_file:
        return parse_ensemble(read_recipe_file(name_or_file), where=name_or_file, name=Path(name_or_file).stem)
    names = ensemble_recipe_names()
    if name_or_file not in names:
        known = ", ".join(names)
        raise UserError(f"no ensemble recipe {name_or_file!r}{nearest(name_or_file, names)}; there are {known}")
    text = (resources.files(__package__) / f"{name_or_file}.toml").read_text(encoding="utf-8")
    return parse_ensemble(text, where=f"ensemble recipe {name_or_file}", name=name_or_file)


def parse_ensemble(text: str, *, where: str, name: str) -> EnsembleRecipe:
    """Parse the TOML text of an ensemble's recipe or ``config.toml``; ``name`` is its name unless the text has one."""
    tables = parse_toml(text, where)
    unknown = [key for key in tables if key not in ("name", "ensemble", "about")]
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; allowed are name, [ensemble] and [about]")
    values, about = tables.get("ensemble"), tables.get("about", {})
    if not isinstance(values, dict) or not isinstance(about, dict):
        raise UserError(f"{where}: an ensemble needs an [ensemble] table with its members")
    known = {f.name for f in dataclasses.fields(About)}
    for key in about:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r} in [about]{nearest(key, known)}")
    members = check_values(_MEMBERS, values.pop("members", []), f"{where} members")
    return EnsembleRecipe(
        name=str(tables.get("name", name)),
        members=tuple(member.translate(CHARACTERS_AS_BYTES) for member in members),
        settings=make_settings(values, where),
        about=check_values(_ABOUT, about, f"{where} [about]"),
    )


def is_ensemble_config(text: str) -> bool:
    """Whether a ``config.toml`` is that of an ensemble."""
    try:
        return "ensemble" in parse_toml(text, "config.toml")
    except UserError:
        return False


def to_toml(name: str, members: list[str], settings: EnsembleSettings) -> str:
    """The ``config.toml`` of an ensemble."""
    values: dict[str, Any] = {"name": name, "ensemble": {"members": members, **dataclasses.asdict(settings)}}
    return tomli_w.dumps(values).translate(BYTES_AS_CHARACTERS)
