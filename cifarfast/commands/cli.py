"""``cifarfast COMMAND``: the console script, which starts every command of the package."""

import importlib
import sys
from collections.abc import Callable

from .._version import __version__
from ..errors import UserError, nearest
from .flags import run_main


def _module(name: str) -> Callable[[list[str]], int]:
    """The body of the command in the module ``name`` of this folder, which is imported only when the command is run."""
    return lambda arguments: importlib.import_module(f".{name}", __package__).run_command(arguments)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_module("train"), "train a model and leave a run folder"),
    "evaluate": (_module("evaluate"), "score a run's weights on its test set"),
    "report": (_module("report"), "compare runs: a table and an HTML file"),
    "reproduce": (_module("reproduce"), "run recipes with several seeds, beside what their sources report"),
    "ensemble": (_module("ensemble"), "combine runs by voting or stacking"),
    "predict": (_module("predict"), "classify image files"),
    "export": (_module("export"), "write a model as ONNX or torch.export"),
    "augment-preview": (_module("augment_preview"), "draw what a recipe's augmentation does"),
    "models": (_module("models"), "list models, parameters, MACs"),
    "recipes": (_module("recipes"), "list recipes"),
    "datasets": (_module("datasets"), "list data sets"),
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
