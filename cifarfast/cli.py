"""``cifarfast COMMAND``: the console script, which starts every command of the package."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from ._version import __version__
from .errors import UserError, nearest
from .flags import parse_flags, run_main


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """List the models with their parameters and multiply-accumulates for one image."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern of the names, for example 'wrn*'."""
    num_classes: int = 10
    """Classes."""


def list_models_command(arguments: list[str]) -> int:
    """``cifarfast models``."""
    from .models import format_table, list_models, model_info

    options = parse_flags(ModelsOptions, arguments, prog="cifarfast models")
    names = list_models(options.pattern)
    if not names:
        raise UserError(f"no model matches {options.pattern!r}{nearest(options.pattern, list_models())}")
    print(format_table([model_info(name, num_classes=options.num_classes) for name in names]))
    return 0


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """List the recipes with what they train and the accuracy their source reports."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern of the names, for example 'b2*', or a table's letter: A, B, C."""


def list_recipes_command(arguments: list[str]) -> int:
    """``cifarfast recipes``."""
    from .catalogue import catalogue_table

    options = parse_flags(RecipesOptions, arguments, prog="cifarfast recipes")
    print(catalogue_table(options.pattern))
    return 0


@dataclass(frozen=True, kw_only=True)
class DatasetsOptions:
    """List the data sets by the names that --dataset takes."""


def list_datasets_command(arguments: list[str]) -> int:
    """``cifarfast datasets``."""
    from .data import list_datasets

    parse_flags(DatasetsOptions, arguments, prog="cifarfast datasets")
    rows = list_datasets()
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in rows))
    return 0


def _module(name: str) -> Callable[[list[str]], int]:
    """The body of a command that is a module of its own, imported only when it is run."""
    return lambda arguments: importlib.import_module(f"cifarfast.{name}").run_command(arguments)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_module("train"), "train a model and leave a run folder"),
    "evaluate": (_module("evaluate"), "score a run's weights on its test set"),
    "report": (_module("report.__main__"), "compare runs: a table and an HTML file"),
    "reproduce": (_module("reproduce"), "run recipes with several seeds, beside what their sources report"),
    "ensemble": (_module("ensemble"), "combine runs by voting or stacking"),
    "predict": (_module("predict"), "classify image files"),
    "export": (_module("export"), "write a model as ONNX or torch.export"),
    "augment-preview": (_module("augment_preview"), "draw what a recipe's augmentation does"),
    "models": (list_models_command, "list models, parameters, MACs"),
    "recipes": (list_recipes_command, "list recipes"),
    "datasets": (list_datasets_command, "list data sets"),
    "env": (_module("env"), "versions, GPU, and which backend each op takes"),
}


def usage() -> str:
    """The text of ``cifarfast --help``."""
    lines = [f"  {name:<{max(map(len, COMMANDS))}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "usage: cifarfast COMMAND [--help] …\n\ncommands:\n" + "\n".join(lines)


def run_command(arguments: list[str]) -> int:
    """Run the command that the first argument names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}{nearest(name, COMMANDS)}; the commands are {', '.join(COMMANDS)}")
    return COMMANDS[name][0](rest)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    return run_main(run_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
