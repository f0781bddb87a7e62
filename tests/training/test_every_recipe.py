"""Every recipe that comes along trains for two steps, evaluates, and leaves a result; ensembles combine such runs."""

from pathlib import Path

import pytest
from processes import run_inline

from cifarfast.commands import cli
from cifarfast.ensembling import ensemble_recipe_names, load_ensemble_recipe
from cifarfast.recipes.recipe import recipe_names
from cifarfast.runs.run_folder import RunFolder

TWO_STEPS = [
    "--dataset=synthetic:classes=10,train=60,test=6",
    "--limit-train=8",
    "--batch-size=4",
    "--epochs=1",
    "--device=cpu",
    "--quiet",
]


@pytest.mark.parametrize("name", recipe_names())
def test_two_steps(name: str, tmp_path: Path) -> None:
    done = run_inline([f"--recipe={name}", *TWO_STEPS, f"--out={tmp_path / 'run'}"])
    assert done.code == 0, done.stderr
    result = RunFolder(tmp_path / "run").read_result()
    assert result["recipe"] == name
    assert 0 <= result["test_accuracy_percent"] <= 100


def test_ensembles_of_two_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ensemble_recipe_names()
    assert cli.main(["reproduce", *names, *TWO_STEPS, f"--out={tmp_path}"]) == 0, capsys.readouterr().err
    for name in names:
        recipe = load_ensemble_recipe(name)
        (folder,) = (tmp_path / name).iterdir()
        result = RunFolder(folder).read_result()
        assert result["recipe"] == name
        assert 0 <= result["test_accuracy_percent"] <= 100
        assert {path.parent.name for path in tmp_path.glob("*/seed-*")} >= {name, *recipe.members}
