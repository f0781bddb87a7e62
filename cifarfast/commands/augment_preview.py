"""``cifarfast augment-preview``: a picture of what a recipe's augmentation does to its training images."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ..augment import save_preview
from ..errors import UserError
from ..recipes.build import build_augment, load_recipe_data, normalization
from ..recipes.recipe import Recipe
from ..runs.storage import disk_errors
from ..runtime.files import user_path
from .flags import parse_flags, run_main
from .recipe_flags import base_recipe, checked


@dataclass(frozen=True, kw_only=True)
class PreviewOptions:
    """Write a PNG of training images beside their augmented versions, with the mixed labels."""

    settings: Annotated[Recipe, tyro.conf.arg(name="")]
    recipe: str | None = None
    """Recipe to start from: a name that `cifarfast recipes` lists, or a TOML file."""
    out: str = "augment-preview.png"
    """The picture's file."""
    images: int = 8
    """Images shown, one a row."""
    columns: int = 8
    """Augmented versions of each, evenly spread over the epochs of the training."""


def run_command(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    default = PreviewOptions(settings=base_recipe(arguments))
    options = parse_flags(PreviewOptions, arguments, prog="cifarfast augment-preview", default=default)
    for name in ("images", "columns"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    recipe = checked(options.settings).resolved("cpu")
    out = user_path(options.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out}: the picture is a PNG, its name must end in .png")
    data = load_recipe_data(recipe).train
    augment = build_augment(recipe, *normalization(recipe, data.images), training=True)
    last, count, rows = recipe.epochs - 1, min(options.columns, recipe.epochs), min(options.images, len(data))
    epochs = [round(i * last / max(count - 1, 1)) for i in range(count)]
    with disk_errors(f"write {out}"):
        save_preview(out, augment, data.images, data.labels, data.classes, rows=rows, epochs=epochs)
    print(f"{out}: {rows} images, epochs {', '.join(str(epoch + 1) for epoch in epochs)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)
