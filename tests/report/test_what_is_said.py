"""Line 21 and 26: what a report and the last lines of a training say is true."""

import re
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import leave_figures_undrawn, make_run

from cifarfast.commands.train import next_steps
from cifarfast.data.official import data_name, has_official_files
from cifarfast.inference.scores import calibration, expected_calibration_error
from cifarfast.report import page
from cifarfast.report.page import LEAST_ACCURACY, write_report


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("cifar10", True),
        ("cifar100", True),
        ("emnist_byclass", True),
        ("digits", False),
        ("folder:/pictures/cifar10", False),
        ("csv:cifar10.csv", False),
        ("synthetic:classes=3", False),
    ],
)
def test_line_21_only_data_sets_with_published_files_are_called_not_official(name: str, has: bool) -> None:
    assert has_official_files(name) is has
    remark = " (not the official files)" if has else ""
    assert data_name({"dataset": name, "official": False}) == name + remark
    assert data_name({"dataset": name, "official": True}) == name


@pytest.mark.parametrize("copy", [False, True])
def test_line_21_a_page_says_once_that_the_data_are_a_copy(
    copy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of one's own are no copy, and digits have only one source."""
    leave_figures_undrawn(monkeypatch)
    run = make_run(tmp_path / "own", dataset="synthetic:classes=3,train=40,test=20", crop_padding=0)
    if copy:
        monkeypatch.setattr(page, "is_copy", lambda result: True)
    text = write_report([run.path]).path.read_text()
    assert text.count("Not the official data.") == int(copy)
    assert ("fficial" in text) is copy


def test_line_21_counts_are_of_the_images_that_were_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_figures_undrawn(monkeypatch)
    run = make_run(tmp_path / "limited", dataset="synthetic:classes=3,train=40,test=20", crop_padding=0)
    assert "40 training and 20 test images" in write_report([run.path]).path.read_text()
    run.write_result(run.read_result() | {"train_images": 7})
    assert "7 training and 20 test images" in write_report([run.path]).path.read_text()


def test_line_21_the_calibration_error_is_what_the_caption_says(tmp_path: Path) -> None:
    # two bins of 15: 3 images of confidence .9, of which 2 are right; 1 of confidence .5, which is wrong
    probabilities = np.array([[0.9, 0.1]] * 3 + [[0.5, 0.5]])
    table = calibration(probabilities, np.array([0, 0, 1, 1]))
    assert expected_calibration_error(table) == pytest.approx(3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * 0.5)


def test_line_21_likely_label_errors_are_for_models_that_are_mostly_right(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(100) % 2

    class Run:
        optimistic = ""

    Run.labels = labels  # type: ignore[attr-defined]
    monkeypatch.setattr(page, "prediction_tiles", lambda *_: [])

    class Data:
        test = None

    for wrong in (29, 31):
        p = np.eye(2)[np.where(np.arange(100) < wrong, 1 - labels, labels)]
        found = page._label_errors([Run()], Data(), [p])  # type: ignore[list-item, arg-type]
        assert (found is None) == (100 - wrong < LEAST_ACCURACY)
        assert found is None or found[0] == wrong


@pytest.mark.parametrize(
    ("device", "settings"), [("cpu", "--recipe b01_lenet"), ("cuda", "--arch wrn16_8 --epochs 200")]
)
def test_line_26_the_last_lines_fit_the_machine(device: str, settings: str) -> None:
    lines = next_steps("digits", device, Path("runs/one")).splitlines()
    for name, line in zip(("evaluate", "report"), lines, strict=False):
        assert re.fullmatch(rf"next: .*cifarfast[. ]{name} runs/one", line)
    assert lines[2].endswith(settings)
    assert len(next_steps("cifar10", device, Path("runs/one")).splitlines()) == 2
