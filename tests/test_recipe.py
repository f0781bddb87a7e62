"""Recipe: names, types and ranges are checked, and TOML goes there and back."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarfast.errors import UserError
from cifarfast.recipe import NOT_IDENTITY, Recipe, differences, load_recipe, parse_recipe, recipe_names, to_toml


def parse(text: str) -> Recipe:
    return parse_recipe(text, where="mine.toml", name="mine")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 0", "mine.toml: epochs = 0: must be greater than or equal to 1"),
        ("epoch = 3", "mine.toml: unknown setting 'epoch', did you mean 'epochs'?"),
        ('epochs = "3"', "mine.toml: epochs = '3': must be a valid integer"),
        ("epochs = 2.5", "epochs = 2.5"),
        ('optimizer = "adm"', "'sgd', 'adam'"),
        ("dropout = 1", "dropout = 1: must be less than 1"),
        ("lr = 0", "lr = 0: must be greater than 0"),
        ("lr = nan", "lr = nan"),
        ("betas = [0.9]", "betas"),
        ("lr = inf", "lr = inf"),
        ("warmup_epochs = inf", "warmup_epochs = inf"),
        ("l2 = {fc1 = inf}", "l2"),
        ("step_milestones = [0.6, 0.3]", "must increase"),
        ("[l2]\nconv1 = -1.0", "l2 of layer 'conv1' is -1.0"),
        ("[about]\ndescriptio = 'x'", "unknown key 'descriptio' in [about], did you mean 'description'?"),
        ("about = 3", "[about] must be a table"),
        ("epochs = ", "mine.toml is not TOML"),
    ],
)
def test_mistakes_are_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_toml_there_and_back() -> None:
    recipe = parse(
        "epochs = 3\nlr = 1\ndropout = 0.25\nbetas = [0.8, 0.99]\nstep_milestones = [0.5]\nl2 = {fc1 = 1e-4}"
    )
    assert recipe.l2 == {"fc1": 1e-4}
    assert recipe.name == "mine"
    assert parse_recipe(to_toml(recipe), where="again", name="other")[0] == recipe


@given(
    epochs=st.integers(1, 10**6),
    lr=st.floats(1e-12, 10, exclude_min=True),
    val_split=st.floats(0, 1, exclude_max=True),
    data_dir=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
    milestones=st.sets(st.floats(0, 1), max_size=4),
)
def test_any_recipe_goes_there_and_back(
    epochs: int, lr: float, val_split: float, data_dir: str | None, milestones: set[float]
) -> None:
    recipe = Recipe(
        epochs=epochs, lr=lr, val_split=val_split, data_dir=data_dir, step_milestones=tuple(sorted(milestones))
    )
    assert parse_recipe(to_toml(recipe), where="again", name="other")[0] == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_along_loads(name: str) -> None:
    recipe, about = load_recipe(name)
    assert recipe.name == name
    assert about.description
    assert about.source
    assert recipe.resolved("cpu").lr


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_recipe("quikstart")


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text("epochs = 7")
    recipe, _ = load_recipe(str(tmp_path / "short.toml"))
    assert (recipe.epochs, recipe.name) == (7, "short")


def test_resolving_fills_in_what_depends_on_others() -> None:
    sgd = Recipe().resolved("cpu")
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.precision, sgd.device) == (0.1, 0.9, 5e-4, "fp32", "cpu")
    adam = Recipe(optimizer="adam").resolved("cuda")
    assert (adam.lr, adam.momentum, adam.weight_decay, adam.precision) == (1e-3, 0.0, 0.0, "bf16")
    assert Recipe(optimizer="adam", lr=3e-4, weight_decay=0.1).resolved("cpu").weight_decay == 0.1
    assert sgd.resolved("cpu") == sgd


def test_differences_name_what_changes_the_outcome_only() -> None:
    assert differences(Recipe(), Recipe(epochs=3, data_dir="x", tensorboard=True)) == ["epochs: 200 ≠ 3"]
    assert set(NOT_IDENTITY) <= {f.name for f in dataclasses.fields(Recipe)}
