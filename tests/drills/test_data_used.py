"""Every image of a folder is used or counted, and names are classes as the user wrote them.

The numbers in names are those of the requirements.
"""

import os
from pathlib import Path

import pytest
import torch
from made_up_data import TINY, classes, picture
from mistakes import refused
from PIL import Image
from processes import run_inline

import cifarfast
from cifarfast.data import image_files, load_dataset, scan
from cifarfast.report.page import write_report
from cifarfast.runs.run_folder import RunFolder

# 11: one scanner


def mixed_folder(root: Path) -> int:
    """A folder of one class with every kind of entry; returns how many files there are in all."""
    picture(root / "one.png", 1)
    picture(root / "deep" / "deeper" / "two.PNG", 2)
    picture(root / "no_suffix", 3)
    (root / "README").write_text("no image")
    for k in range(3):
        (root / f"{k}.heic").write_bytes(b"....ftypheic")
    (root / "notes.txt").write_text("")
    (root / ".hidden.png").write_bytes(b"")
    (root / "gone.png").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.png")
    (root / "deep" / "up").symlink_to(root)
    return 11


def test_line_11_used_and_left_out_are_all(tmp_path: Path) -> None:
    linked = tmp_path / "elsewhere"
    picture(linked / "four.png", 4)
    total = mixed_folder(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "link").symlink_to(linked)
    found = scan.scan(tmp_path / "data" / "a")
    assert [path.name for path in found.images] == ["two.PNG", "four.png", "no_suffix", "one.png"]
    expected = {".heic": 3, ".txt": 1, "no suffix": 1, "hidden": 1, "broken link": 1, "not a regular file": 1}
    assert found.left_out == expected | {"link to a folder that is used already": 1}
    assert len(found.images) + found.left_out.total() == total + 2  # what is linked and the link upwards


def test_line_11_data_sets_and_predict_use_and_leave_out_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    mixed_folder(data / "a")
    classes(data, ("b",), 4, first=100)
    (data / "about.md").write_text("")
    splits = load_dataset(f"folder:{data}")
    pixels = torch.cat([splits.train.images, splits.test.images])[:, 0, 0, 0]
    assert sorted(pixels.tolist()) == [1, 2, 3, 100, 101, 102, 103]
    (note,) = splits.notes
    line = "hidden 1, link to a folder that is used already 1, no suffix 1, not a regular file 1"
    assert note == f"{data}: left out 10 files: .heic 3, .txt 1, broken link 1, {line}, outside class folders 1"
    done = run_inline([f"--dataset=folder:{data}", *TINY, f"--out={tmp_path / 'run'}"])
    assert done.code == 0, done.stderr
    assert note in done.stdout
    assert note in write_report([tmp_path / "run"]).notes
    assert cifarfast.commands.cli.main(["predict", str(tmp_path / "run"), str(data / "a")]) == 0
    said = capsys.readouterr()
    assert "left out 9 files: .heic 3" in said.err
    assert [name in said.out for name in ("one.png", "two.PNG", "no_suffix", "README")] == [True, True, True, False]


def test_line_11_a_class_without_images_says_what_it_has(tmp_path: Path) -> None:
    classes(tmp_path)
    for k in range(2):
        picture(tmp_path / "c" / f"{k}.xcf", k)
    with refused("c has no images", "; left out 2 files: .xcf 2; add some or remove the folder"):
        load_dataset(f"folder:{tmp_path}")


def test_line_11_heic_is_read_where_its_plug_in_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that makes Pillow read .heic, as pillow_heif does; here .heic files are PNG files."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "class Heif(PngImagePlugin.PngImageFile):\n    format = 'HEIF'\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', Heif, lambda prefix: prefix.startswith(b'\\x89PNG'))\n"
        "    Image.register_extension('HEIF', '.heic')\n"
    )
    classes(tmp_path / "data", ("a", "b"), 3)
    for k in range(3):
        picture(tmp_path / "data" / "b" / f"x{k}.heic", 200 + k)
    assert "left out 3 files: .heic 3" in load_dataset(f"folder:{tmp_path / 'data'}").notes[0]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    image_files.image_suffixes.cache_clear()
    try:
        splits = load_dataset(f"folder:{tmp_path / 'data'}")
    finally:
        image_files.image_suffixes.cache_clear()
    assert splits.notes == ()
    assert {200, 201, 202} <= set(torch.cat([splits.train.images, splits.test.images])[:, 0, 0, 0].tolist())


# 12: names


def test_line_12_parts_are_folders_with_class_folders_inside(tmp_path: Path) -> None:
    classes(tmp_path / "flat", ("train", "test", "truck"))
    assert load_dataset(f"folder:{tmp_path / 'flat'}").train.classes == ("test", "train", "truck")
    classes(tmp_path / "kaggle" / "train")
    classes(tmp_path / "kaggle" / "val", first=50)
    picture(tmp_path / "kaggle" / "test" / "0.png", 99)
    splits = load_dataset(f"folder:{tmp_path / 'kaggle'}")
    assert (len(splits.train), len(splits.test), splits.val) == (6, 6, None)
    assert splits.notes == (f"{tmp_path / 'kaggle'}: left out 1 file: outside train/, test/ and val/ 1",)
    classes(tmp_path / "deep" / "train", ("day", "night"))  # a class with folders of its own, beside others
    classes(tmp_path / "deep", ("truck", "tulip"))
    with refused("has train/ but no test/ or val/ beside it"):
        load_dataset(f"folder:{tmp_path / 'deep'}")
    picture(tmp_path / "flat" / "test" / "a" / "0.png", 9)
    with refused("test has folders and images side by side"):
        load_dataset(f"folder:{tmp_path / 'flat'}")
    classes(tmp_path / "no_train" / "test")
    classes(tmp_path / "no_train" / "val")
    with refused("has test/ with class folders, but no train/ with class folders"):
        load_dataset(f"folder:{tmp_path / 'no_train'}")


def test_line_12_labels_with_leading_zeros_are_classes_of_their_own(tmp_path: Path) -> None:
    labels = ["01", "1", "2", "10"]
    rows = [f"{picture(tmp_path / f'{k}.png', k).name},{labels[k % 4]}" for k in range(16)]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows))
    splits = load_dataset(f"csv:{tmp_path / 't.csv'}")
    assert splits.train.classes == ("01", "1", "2", "10")
    assert torch.equal(splits.train.labels, splits.train.images[:, 0, 0, 0].long() % 4)


def test_line_12_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    classes(tmp_path / "data" / "train", (composed, "tea"))
    classes(tmp_path / "data" / "test", (decomposed, "tea"), first=40)
    classes(tmp_path / "both", (composed, decomposed, "tea"))
    splits = load_dataset(f"folder:{tmp_path / 'data'}")
    assert splits.train.classes == splits.test.classes == (composed, "tea")
    assert splits.test.labels.tolist() == [0] * 3 + [1] * 3
    assert load_dataset(f"folder:{tmp_path / 'both'}").train.classes == (composed, "tea")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted((tmp_path / "both").rglob("*.png"))]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows), encoding="utf-8")
    assert load_dataset(f"csv:{tmp_path / 't.csv'}").train.classes == (composed, "tea")


def test_line_12_names_that_are_not_utf_8(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Class, file, data set and run folder in Latin-1, through training, evaluation, prediction, resuming, report."""
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    data, run = os.fsdecode(raw + b"/data"), os.fsdecode(raw + b"/run")
    classes(Path(data), (os.fsdecode(b"th\xe9"), "tea"))
    image = str(picture(Path(os.fsdecode(raw + b"/\xff.png")), 7))
    main = cifarfast.commands.cli.main
    arguments = [f"--dataset=folder:{data}", *TINY, f"--out={run}"]
    assert main(["train", *arguments]) == 0
    assert RunFolder(run).read_config().dataset == f"folder:{data}"
    assert main(["train", *arguments, "--resume"]) == 0
    assert main(["evaluate", run]) == 0
    assert main(["evaluate", run, f"--dataset=folder:{data}", "--json"]) == 0
    assert main(["predict", run, image]) == 0
    assert main(["predict", run, image, "--json"]) == 0
    assert main(["report", run]) == 0
    assert main(["report", "--table", run]) == 0
    other = os.fsdecode(raw + b"/other")
    assert main(["train", *arguments, "--seed=1", f"--out={other}"]) == 0
    assert main(["ensemble", run, other, "--weights", "1", "1", f"--out={os.fsdecode(raw + b'/both')}"]) == 0
    assert b"th\\xe9" in capfdbinary.readouterr().out
    html = Path(run, "report.html").read_bytes().decode("utf-8")  # strictly
    assert "th\\xe9" in html
