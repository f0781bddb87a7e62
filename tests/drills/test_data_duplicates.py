"""The same image in training and test is counted, said, and left out on request.

The numbers in names are those of the requirements.
"""

from pathlib import Path

import pytest
import torch
from made_up_data import TINY, picture
from mistakes import refused
from processes import run_inline

import cifarfast
from cifarfast.data import Splits, load_dataset
from cifarfast.inference.evaluation import Evaluation
from cifarfast.report.page import write_report
from cifarfast.runs.run_folder import RunFolder

# 13: the same image in training and test


def table(root: Path, rows: list[tuple[int, str, str]]) -> str:
    """A CSV data set of (pixel value, label, split), a file a row."""
    lines = []
    for k, (value, label, part) in enumerate(rows):
        lines.append(f"{picture(root / f'{k}.png', value).name},{label},{part}")
    (root / "t.csv").write_text("path,label,split\n" + "\n".join(lines))
    return f"csv:{root / 't.csv'}"


def overlapping(root: Path) -> str:
    """12 training images, of which 3 are among the 6 test images; labels do not matter for that."""
    train = [(k, "ab"[k % 2], "train") for k in range(12)]
    test = [(value, "ab"[value % 2], "test") for value in (3, 4, 5, 100, 101, 102)]
    return table(root, train + test)


def test_line_13_shared_images_are_counted_and_dropped_on_request(tmp_path: Path) -> None:
    name = overlapping(tmp_path)
    splits = load_dataset(name)
    assert splits.train_images_in_test == 3
    dropped = load_dataset(name, drop_train_duplicates=True)
    assert dropped.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert dropped.train_images_in_test == 0
    assert torch.equal(dropped.test.images, splits.test.images)
    assert dropped.fingerprint == splits.fingerprint
    assert dropped.notes == ("left out 3 of 12 training images: they are in the test part too",)
    held_out = load_dataset(name, drop_train_duplicates=True, val_split=0.5)
    assert held_out.val is not None
    assert {3, 4, 5}.isdisjoint(torch.cat([held_out.train.images, held_out.val.images])[:, 0, 0, 0].tolist())


def test_line_13_training_and_report_say_it(tmp_path: Path) -> None:
    name, runs = overlapping(tmp_path), []
    for arguments, line in (
        ([], "3 of 12 training images are in the test part too, pixel for pixel"),
        (["--drop-train-duplicates"], "no training image is in the test part too"),
        (["--limit-train=4"], "training image"),
    ):
        runs.append(tmp_path / f"run{len(runs)}")
        done = run_inline([f"--dataset={name}", *TINY, *arguments, f"--out={runs[-1]}"])
        assert done.code == 0, done.stderr
        assert line in done.stdout
        assert ("left out 3 of 12 training images" in done.stdout) == ("--drop-train-duplicates" in arguments)
    html = write_report(runs).path.read_text()
    limited = RunFolder(runs[2]).read_result()["train_images_in_test"]
    assert f"pixel for pixel: run0 3 of 12; run1 0 of 9; run2 {limited} of 4." in html


def test_line_13_every_row_in_both_splits(tmp_path: Path) -> None:
    rows = [(k, "ab"[k % 2], part) for part in ("train", "test") for k in range(6)]
    name = table(tmp_path, rows)
    assert load_dataset(name).train_images_in_test == 6
    with refused("every training image is in the test part too, none is left to train on"):
        load_dataset(name, drop_train_duplicates=True)


def test_line_13_evaluation_on_another_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    values = (*range(4), *range(60, 68))
    other = table(tmp_path / "other", [(k, "ab"[k % 2], "test" if k < 64 else "train") for k in values])
    own = overlapping(tmp_path)
    assert run_inline([f"--dataset={own}", *TINY, f"--out={tmp_path / 'run'}"]).code == 0
    found: Evaluation = cifarfast.Run(tmp_path / "run").evaluate(dataset=other)
    assert found.about["test_images_in_training"] == 4
    assert "4 of these images are among the training images too" in found.to_text()
    for file in tmp_path.glob("*.png"):
        file.unlink()
    found = cifarfast.Run(tmp_path / "run").evaluate(dataset=other)
    assert found.about["test_images_in_training"] is None
    assert "was not seen: those are not here" in found.to_text()


def test_line_13_real_emnist_across_its_splits(real_data: Path) -> None:
    balanced, byclass = (load_dataset(f"emnist_{split}", data_dir=real_data) for split in ("balanced", "byclass"))
    mixed = Splits("mixed", balanced.train, None, byclass.test)
    by_bytes = {image.tobytes() for image in byclass.test.images.numpy()}
    assert mixed.train_images_in_test == sum(image.tobytes() in by_bytes for image in balanced.train.images.numpy())
