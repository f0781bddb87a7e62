"""Recipe: names, types and ranges are checked, and TOML goes there and back."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistakes import refused

from cifarfast.errors import UserError
from cifarfast.recipes.recipe import NOT_IDENTITY, Recipe, differences, load_recipe, parse_recipe, recipe_names, to_toml
from cifarfast.studies.catalogue import about_recipe, catalogue_names, catalogue_table, reported


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
    with refused(message):
        parse(text)


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


# what the sources report for each row of the tables, where they give an exact accuracy: a7 and all of table B
TABLE_B = """59.48 61.25 77.27 80.52 82.05 82.70 78.43 90.01 90.26 89.49 89.85 90.11 90.52 89.86 90.88 90.43 91.17 94.65
    94.84 95.08 94.78 95.08 95.89 96.34 96.40 96.86 97.07 96.82 96.9 97.48 97.70 97.75 97.78"""
ROWS: dict[str, float | None] = {
    **dict.fromkeys([f"a{n}" for n in range(1, 7)]),
    "a7": 81.61,
    **{f"b{number:02}": float(percent) for number, percent in enumerate(TABLE_B.split(), 1)},
    "c1": None,
    "c2": None,
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_along_loads(name: str) -> None:
    recipe, about = load_recipe(name)
    assert recipe.name == name
    assert about.description
    assert about.source
    assert recipe.resolved("cpu").lr


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_recipe_that_names_its_source_and_what_it_reports(row: str) -> None:
    (name,) = (name for name in catalogue_names() if name.partition("_")[0] == row)
    about = about_recipe(name)
    assert about.source.endswith(f": table {row[0].upper()}, row {row}")
    assert about.reported_accuracy_percent == ROWS[row]
    assert f"| {name} | {about.description} | " in catalogue_table(f"{row}_*")
    assert catalogue_table(f"{row}_*").endswith(f" | {reported(about)} |")


def test_no_recipe_but_the_rows_and_the_first_run() -> None:
    assert {name.partition("_")[0] for name in catalogue_names()} == {*ROWS, "quickstart"}
    with pytest.raises(UserError, match="no recipe matches 'b99_wrn', did you mean 'b20_wrn'"):
        catalogue_table("b99_wrn")


@pytest.mark.parametrize(
    ("name", "before", "changed"),
    [
        ("b02_lenet_he", "b01_lenet", {"init"}),
        ("b04_deep_he", "b03_deep", {"init"}),
        ("b05_deep_cos", "b04_deep_he", {"schedule"}),
        ("b06_deep_bn", "b05_deep_cos", {"arch"}),
        ("b07_none", "b06_deep_bn", {"epochs"}),
        ("b08_sa", "b07_none", {"crop_padding", "flip", "rotation"}),
        ("b17_aa", "b08_sa", {"auto_augment"}),
        ("b23_wrn_sgd", "b20_wrn", {"optimizer", "momentum", "lr", "weight_decay"}),
        ("b24_wrn_asam", "b23_wrn_sgd", {"sam", "sam_rho"}),
        ("b25_wrn_ema", "b24_wrn_asam", {"ema_decay"}),
        ("b26_wrn_ls", "b25_wrn_ema", {"label_smoothing"}),
        ("b27_wrn_200", "b26_wrn_ls", {"epochs"}),
        ("b28_pyramid", "b23_wrn_sgd", {"arch", "weight_decay"}),
        ("b29_pyramid_shake", "b28_pyramid", {"arch"}),
        ("b30_pyramid_200", "b29_pyramid_shake", {"sam", "sam_rho", "ema_decay", "label_smoothing", "epochs"}),
        ("b31_pyramid_400", "b30_pyramid_200", {"epochs"}),
    ],
)
def test_a_row_changes_what_it_says_and_nothing_else(name: str, before: str, changed: set[str]) -> None:
    ours, theirs = (load_recipe(each)[0] for each in (name, before))
    assert {line.partition(":")[0] for line in differences(ours, theirs)} - {"name"} == changed


def test_a_table_is_listed_by_its_letter() -> None:
    rows = catalogue_table("C").splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["c1_tutorial", "c2_tutorial_bn"]


def test_the_recipe_of_an_ensemble_says_which_command_takes_it() -> None:
    with pytest.raises(UserError, match="b32_ensemble is an ensemble's recipe: `cifarfast reproduce b32_ensemble`"):
        load_recipe("b32_ensemble")


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
