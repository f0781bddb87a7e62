"""Every recipe that comes along trains for two steps, evaluates, and leaves a result; ensembles combine such runs."""

from pathlib import Path

import pytest
from processes import run_inline

from cifarfast.commands import cli
from cifarfast.ensembling import ensemble_recipe_names, load_ensemble_recipe
from cifarfast.recipes.recipe import load_recipe, recipe_names
from cifarfast.runs.run_folder import RunFolder

TWO_STEPS = ["--limit-train=8", "--batch-size=4", "--epochs=1", "--device=cpu", "--quiet"]
DATA = "--dataset=synthetic:classes=10,train=60,test=6"
SMALL_DATA = f"{DATA},size=8"
# a network of seconds a step, and a small one of its kind: the recipe around it is the same
NARROW = {
    **dict.fromkeys(("res5", "res15", "wrn16_8", "wrn16_8_no_relu1", "wrn16_8_last_bn"), "wrn10_1"),
    "pyramidnet110_a150": "pyramidnet8_a6",
    "pyramidnet110_a150_shakedrop": "pyramidnet8_a6_shakedrop",
}
ARCHS = {name: load_recipe(name)[0].arch for name in recipe_names()}


def train_two_steps(name: str, run: RunFolder, *flags: str) -> None:
    run_inline([f"--recipe={name}", *TWO_STEPS, *flags, f"--out={run.path}"], code=0)
    result = run.read_result()
    assert result["recipe"] == name
    assert 0 <= result["test_accuracy_percent"] <= 100


@pytest.mark.parametrize("name", ARCHS)
def test_two_steps(name: str, tmp_path: Path) -> None:
    small = NARROW.get(ARCHS[name])
    train_two_steps(name, RunFolder(tmp_path / "run"), *([SMALL_DATA, f"--arch={small}"] if small else [DATA]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, arch in ARCHS.items() if arch in NARROW])
def test_two_steps_of_the_whole_network(name: str, tmp_path: Path) -> None:
    train_two_steps(name, RunFolder(tmp_path / "run"), SMALL_DATA)


@pytest.mark.slow
def test_ensembles_of_two_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ensemble_recipe_names()
    arguments = ["reproduce", *names, *TWO_STEPS, SMALL_DATA, f"--out={tmp_path}"]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    for name in names:
        recipe = load_ensemble_recipe(name)
        (folder,) = (tmp_path / name).iterdir()
        result = RunFolder(folder).read_result()
        assert result["recipe"] == name
        assert 0 <= result["test_accuracy_percent"] <= 100
        assert {path.parent.name for path in tmp_path.glob("*/seed-*")} >= {name, *recipe.members}
