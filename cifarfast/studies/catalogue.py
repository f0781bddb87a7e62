"""Every recipe by name: those of single runs in ``recipes/`` and those of ensembles in ``ensembling/``.

The name's first letter is the table that the recipe stands in, as its ``[about]`` says: ``b`` of ``b23_wrn_sgd`` is
table B.
"""

import fnmatch
import re
from collections.abc import Sequence

from ..ensembling.settings import ensemble_recipe_names, load_ensemble_recipe
from ..errors import UserError, nearest
from ..recipes.recipe import About, load_recipe, recipe_names

_ROW = re.compile(r"([a-z])\d+_")


def catalogue_names() -> list[str]:
    """Names of all recipes, those of ensembles included, sorted."""
    return sorted([*recipe_names(), *ensemble_recipe_names()])


def is_ensemble(name: str) -> bool:
    """Whether ``name`` is that of an ensemble's recipe."""
    return name in ensemble_recipe_names()


def about_recipe(name: str) -> About:
    """The ``[about]`` table of a recipe, a single run's or an ensemble's.

    Raises:
        UserError: no recipe has this name.
    """
    return load_ensemble_recipe(name).about if is_ensemble(name) else load_recipe(name)[1]


def table_letters() -> list[str]:
    """The letters of the tables that recipes stand in, sorted: "A", "B", …"""
    return sorted({match[1].upper() for name in catalogue_names() if (match := _ROW.match(name))})


def choose_recipes(words: Sequence[str]) -> list[str]:
    """The recipes that ``words`` name, each once, in the order of the words.

    A word is a recipe's name or a table's letter of either case, which stands for all its rows.

    Raises:
        UserError: no words, or one that is neither; names the nearest.
    """
    names, letters = catalogue_names(), table_letters()
    chosen: list[str] = []
    for word in words:
        if word.upper() in letters:
            chosen += [name for name in names if (match := _ROW.match(name)) and match[1] == word.lower()]
        elif word in names:
            chosen.append(word)
        else:
            hint = nearest(word, names)
            raise UserError(
                f"no recipe {word!r}{hint}; give names that `cifarfast recipes` lists, or a table's letter: "
                f"{', '.join(letters)}"
            )
    if not chosen:
        raise UserError(
            f"no recipe was named; give names that `cifarfast recipes` lists, or a table's letter: {', '.join(letters)}"
        )
    return list(dict.fromkeys(chosen))


def reported(about: About) -> str:
    """What the source reports, as a cell of a table: a percentage, else its words, else a dash."""
    if about.reported_accuracy_percent is not None:
        return f"{about.reported_accuracy_percent:g}"
    return about.reported or "–"


def catalogue_table(pattern: str = "*") -> str:
    """A Markdown table of the recipes whose names match a shell pattern, or of a table by its letter.

    Raises:
        UserError: none matches.
    """
    names = fnmatch.filter(catalogue_names(), pattern)
    if not names and pattern.upper() in table_letters():
        names = choose_recipes([pattern])
    if not names:
        raise UserError(f"no recipe matches {pattern!r}{nearest(pattern, catalogue_names())}")
    lines = ["| recipe | what | model | data | epochs | reported % |", "|---|---|---|---|---|---|"]
    for name in names:
        about = about_recipe(name)
        cells = [name, about.description, *_model_cells(name), reported(about)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _model_cells(name: str) -> list[str]:
    """Model, data set and epochs; an ensemble has its members in place of a model."""
    if is_ensemble(name):
        members = [member.partition("_")[0] for member in load_ensemble_recipe(name).members]
        return [" + ".join(members), "–", "–"]
    recipe = load_recipe(name)[0]
    return [recipe.arch, recipe.dataset, str(recipe.epochs)]
