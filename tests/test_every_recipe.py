"""Every recipe that comes along trains for two steps, evaluates, and leaves a result."""

from pathlib import Path

import pytest
from processes import run_inline

from cifarfast.recipe import recipe_names
from cifarfast.run import RunFolder


@pytest.mark.parametrize("name", recipe_names())
def test_two_steps(name: str, tmp_path: Path) -> None:
    done = run_inline(
        [
            f"--recipe={name}",
            "--dataset=synthetic:classes=10,train=60,test=6",
            "--limit-train=8",
            "--batch-size=4",
            "--epochs=1",
            "--quiet",
            f"--out={tmp_path / 'run'}",
        ]
    )
    assert done.code == 0, done.stderr
    result = RunFolder(tmp_path / "run").read_result()
    assert result["recipe"] == name
    assert 0 <= result["test_accuracy_percent"] <= 100
