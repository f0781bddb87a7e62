"""``cifarfast evaluate``: scores of weights and EMA, test-time augmentation, other data sets, bad input."""

import json
import shutil
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mistakes import Fails
from processes import run_inline

from cifarfast.commands.evaluate import main
from cifarfast.ensembling.evaluation import evaluate
from cifarfast.errors import UserError
from cifarfast.inference.label_map import label_map
from cifarfast.inference.scores import score_predictions
from cifarfast.runs.run_folder import RunFolder

TINY = ["--dataset=synthetic:classes=3,train=96,test=31", "--arch=cnn_tutorial", "--batch-size=16", "--quiet"]
FINE = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
COARSE = tuple(c for c in FINE if c not in "cijklmopsuvwxyz")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    assert run_inline([*TINY, "--epochs=2", "--ema-decay=0.5", f"--out={out}"]).code == 0
    return RunFolder(out)


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_stored_predictions_score_the_same(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, str(run.path))
    stored = score_predictions(*run.read_predictions(), ["pattern 0", "pattern 1", "pattern 2"]).to_json()
    for name in ("accuracy_percent", "loss", "macro_f1", "macro_roc_auc", "expected_calibration_error"):
        assert found[name] == pytest.approx(stored[name], rel=1e-6), name
    assert found["confusion_matrix"] == stored["confusion_matrix"]
    assert found["per_class"][1]["name"] == "pattern 1"
    assert found["weights"] == "EMA"
    assert found["official"] is False
    assert found["images_per_second"] > 0
    assert found["milliseconds_a_batch"] > 0


def test_the_table(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.path), "--weights=model", "--batch-size=7"]) == 0
    text = capsys.readouterr().out
    for part in ("model weights", "ROC-AUC", "calibration", "pattern 2", "ms a batch"):
        assert part in text


@pytest.mark.parametrize(("tta", "count"), [("mirror", 2), ("mirror_shift", 6), ("ten_crop", 10)])
def test_views_are_averaged(tta: str, count: int, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    plain, averaged = as_json(capsys, str(run.path)), as_json(capsys, str(run.path), f"--tta={tta}", "--tta-shift=2")
    assert (averaged["views"], averaged["images"]) == (count, 31)
    assert averaged["loss"] != plain["loss"]


def test_mirroring_a_mirror_symmetric_model_changes_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifarfast.inference import evaluation as module

    class Symmetric(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    original = module.checkpoint_model
    monkeypatch.setattr(module, "checkpoint_model", lambda *a, **k: (Symmetric(), original(*a, **k)[1]))
    plain, mirrored = evaluate(run).scores, evaluate(run, tta="mirror").scores
    assert mirrored.loss == pytest.approx(plain.loss, rel=1e-5)


def test_another_data_set_with_the_same_classes(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, str(run.path), "--dataset=synthetic:classes=3,test=60")
    assert (found["images"], found["dataset"]) == (60, "synthetic:classes=3,test=60")


def test_a_run_without_checkpoints_is_scored_by_its_predictions(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    shutil.rmtree(copy / "checkpoints")
    assert as_json(capsys, str(copy))["loss"] == pytest.approx(run.read_result()["test_loss"], rel=1e-6)
    assert "no checkpoint" in fails("evaluate", copy, "--tta=mirror")


def test_emnist_classes_are_merged_by_the_official_rule() -> None:
    assert (len(FINE), len(COARSE)) == (62, 47)
    down, up = label_map(FINE, COARSE), label_map(COARSE, FINE)
    assert label_map(COARSE, COARSE) is None
    assert down is not None
    assert up is not None
    assert down.classes == up.classes == COARSE
    assert COARSE[down.of_model[FINE.index("c")]] == "C"
    assert COARSE[down.of_model[FINE.index("a")]] == "a"
    assert COARSE[up.of_data[FINE.index("z")]] == "Z"
    logits = torch.randn(5, 62)
    merged = down.map_logits(logits).softmax(1)
    p = logits.softmax(1)
    expected = p[:, FINE.index("C")] + p[:, FINE.index("c")]
    assert torch.allclose(merged[:, COARSE.index("C")], expected, atol=1e-6)
    assert torch.allclose(merged.sum(1), torch.ones(5))
    assert up.map_labels(torch.tensor([FINE.index("o")])).item() == COARSE.index("O")


def test_classes_in_another_order() -> None:
    mapping = label_map(("cat", "dog"), ("dog", "cat"))
    assert mapping is not None
    assert mapping.map_logits(torch.tensor([[1.0, 2.0]])).tolist() == [[2.0, 1.0]]
    for other in (("cat", "cow"), ("cat", "dog", "cow"), ("Cat", "Dog")):
        with pytest.raises(UserError, match="no mapping"):
            label_map(("cat", "dog"), other)


def test_emnist_across_its_splits(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"--data-dir={real_data}"
    settings = ["--arch=linear", "--epochs=1", "--quiet", "--limit-train=500", data]
    for split, classes in (("byclass", 62), ("balanced", 47)):
        out = tmp_path / split
        assert run_inline([*settings, f"--dataset=emnist_{split}", f"--out={out}"]).code == 0
        for other in ("byclass", "balanced"):
            found = as_json(capsys, str(out), f"--dataset=emnist_{other}", data)
            assert len(found["per_class"]) == (47 if other != split else classes)
            assert np.sum(found["confusion_matrix"]) == found["images"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--dataset=synthetic:classes=4,test=8"], "no mapping"),
        (["--dataset=synthetic:classes=3,test=9,size=16"], "(size, channels)"),
        (["--dataset=nonsense"], "unknown data set"),
        (["--tta=mirrors"], ""),
        (["--tta=ten_crop", "--tta-shift=0"], "shift"),
        (["--batch-size=0"], "at least 1"),
        (["--weight=ema"], "--weights"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], part: str, run: RunFolder, fails: Fails) -> None:
    assert part in fails("evaluate", run.path, *arguments)


def test_a_run_without_ema(tmp_path: Path, fails: Fails) -> None:
    assert run_inline([*TINY, "--epochs=1", f"--out={tmp_path / 'run'}"]).code == 0
    assert "no EMA" in fails("evaluate", tmp_path / "run", "--weights=ema")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "predictions.npz").unlink()
    assert "no checkpoint and no predictions.npz" in fails("evaluate", tmp_path / "run")
