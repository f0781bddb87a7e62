"""The recipes as a table."""

import fnmatch

from ..errors import UserError, nearest
from ..recipe import load_recipe, recipe_names


def recipe_table(pattern: str = "*") -> str:
    """A Markdown table of the recipes whose names match a shell pattern.

    Raises:
        UserError: none matches.
    """
    names = fnmatch.filter(recipe_names(), pattern)
    if not names:
        raise UserError(f"no recipe matches {pattern!r}{nearest(pattern, recipe_names())}")
    lines = ["| recipe | what | model | data | epochs | reported % |", "|---|---|---|---|---|---|"]
    for name in names:
        recipe, about = load_recipe(name)
        reported = "–" if about.reported_accuracy_percent is None else f"{about.reported_accuracy_percent:g}"
        cells = [name, about.description, recipe.arch, recipe.dataset, str(recipe.epochs), reported]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
