"""`folder:` and `csv:`: layouts, sizes, channels, the fixed test part, and every mistake."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mistakes import refused
from PIL import Image

from cifarfast.data import load_dataset
from cifarfast.data.image_files import read_image


def picture(path: Path, value: int = 0, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if len(mode.split(";")[0]) == 1 else (value,) * len(mode)
    Image.new(mode, size, color).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], mode: str = "RGB", base: int = 0) -> None:
    for k, (name, count) in enumerate(counts.items()):
        for i in range(count):
            picture(root / name / f"{i:02d}.png", base + 20 * k + i, mode)


def expect(name: str, message: str, image_size: int | None = None) -> None:
    with refused(match=message):
        load_dataset(name, image_size=image_size)


def test_class_folders_alone(tmp_path: Path) -> None:
    class_folders(tmp_path, {"dog": 10, "cat": 5})
    (tmp_path / "dog" / "notes.txt").write_text("passed over")
    (tmp_path / "dog" / ".hidden.png").write_text("passed over")
    (tmp_path / ".cache").mkdir()
    splits = load_dataset(f"folder:{tmp_path}", seed=1)
    assert splits.train.classes == ("cat", "dog")
    assert torch.bincount(splits.train.labels).tolist() == [4, 8]
    assert torch.bincount(splits.test.labels).tolist() == [1, 2]
    assert splits.train.images.shape == (12, 8, 8, 3)
    assert not splits.official
    # cat's values are 20…24, dog's 0…9, so pixels tell the class
    assert torch.equal((splits.train.images[:, 0, 0, 0] < 20).long(), splits.train.labels)
    values = torch.cat([splits.train.images, splits.test.images])[:, 0, 0, 0].tolist()
    assert sorted(values) == [*range(10), *range(20, 25)]
    again = load_dataset(f"folder:{tmp_path}", seed=2)
    assert again.fingerprint == splits.fingerprint
    assert torch.equal(again.test.images, splits.test.images)


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val"), ("train", "test", "val")])
def test_train_and_test_folders(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for k, part in enumerate(parts):
        class_folders(tmp_path / part, {"a": 2 + k, "b": 2}, base=100 * k)
    splits = load_dataset(f"folder:{tmp_path}")
    assert len(splits.train) == 4
    assert len(splits.test) == 5
    assert splits.test.images.min() >= 100
    if len(parts) == 3:
        assert splits.val is not None
        assert len(splits.val) == 6
        with refused("brings its own validation part; leave --val-split out"):
            load_dataset(f"folder:{tmp_path}", val_split=0.5)
    else:
        assert splits.val is None


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_channels(tmp_path: Path, mode: str, channels: int) -> None:
    class_folders(tmp_path, {"a": 3, "b": 3}, mode)
    assert load_dataset(f"folder:{tmp_path}").train.in_channels == channels


def test_one_coloured_image_makes_all_coloured(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 3, "b": 3}, "L")
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "a" / "00.png")
    splits = load_dataset(f"folder:{tmp_path}")
    pixels = torch.cat([splits.train.images, splits.test.images])[:, 0, 0].tolist()
    assert [9, 8, 7] in pixels
    assert [21, 21, 21] in pixels


def test_resize(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 3, "b": 3})
    wide = picture(tmp_path / "a" / "wide.png", size=(12, 6))
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (6, 12, 3), np.uint8)).save(wide)
    expect(f"folder:{tmp_path}", r"images differ in size \(.*wide.png is 12×6, .*00.png 8×8\): give --image-size 32")
    splits = load_dataset(f"folder:{tmp_path}", image_size=4)
    assert splits.train.images.shape[1:] == (4, 4, 3)
    expected = np.asarray(Image.open(wide).resize((4, 4), Image.Resampling.BILINEAR))
    images = torch.cat([splits.train.images, splits.test.images]).numpy()
    assert any(np.array_equal(image, expected) for image in images)


def test_images_that_are_not_square(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", size=(8, 6))
    expect(f"folder:{tmp_path}", "must be square, .* is 8×6: give --image-size 32")


def test_images_are_read_as_predict_reads_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(2):
            Image.fromarray(pixels).save(tmp_path / name / f"turned{k}.png", exif=turned)
            Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / name / f"deep{k}.png")
    splits = load_dataset(f"folder:{tmp_path}", image_size=8)
    for image in torch.cat([splits.train.images, splits.test.images]).numpy():
        expected = (read_image(tmp_path / "a" / f"{name}0.png", 8, 3) for name in ("turned", "deep"))
        assert any(np.array_equal(image, each) for each in expected)
    only_deep = tmp_path / "deep"
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (only_deep / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:6, :, 0].astype(np.uint16) * 257).save(only_deep / f"{name}.png")
    assert torch.equal(load_dataset(f"folder:{only_deep}").test.images[0, ..., 0], torch.from_numpy(pixels[:6, :, 0]))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


BOTH = {"a": 3, "b": 3}
NO_RANGE = r"x.tiff: its pixels \(F\) have no fixed range: .*; repair or remove it"
UNKNOWN_CLASS = "cats is a class that the training part lacks, did you mean 'cat'"


@pytest.mark.parametrize(
    ("counts", "change", "message"),
    [
        ({"a": 3}, None, "at least two classes, it has only 'a'"),
        ({}, None, "at least two classes, it has none"),
        ({"a": 3}, lambda root: (root / "b").mkdir(), "b has no images"),
        ({"a": 3, "b": 1}, None, "class 'b' has 1 sample, too few to split"),
        (BOTH, lambda root: _truncate(root / "b/01.png"), "b/01.png: cannot be .*; repair or remove it"),
        (BOTH, lambda root: (root / "b/x.jpg").write_text("hello"), "x.jpg: not an image.*; repair or remove it"),
        (BOTH, lambda root: picture(root / "b/x.tiff", 0.7, "F"), NO_RANGE),
        ({"train/a": 3, "train/b": 3}, None, "no test/ or val/ beside it"),
        ({"train/a": 3, "train/b": 3}, lambda root: (root / "test").mkdir(), "test has no class folders"),
        ({"train/cat": 3, "train/b": 3, "test/cats": 1}, None, UNKNOWN_CLASS),
    ],
)
def test_folder_mistakes(
    tmp_path: Path, counts: dict[str, int], change: Callable[[Path], object] | None, message: str
) -> None:
    class_folders(tmp_path, counts)
    if change is not None:
        change(tmp_path)
    expect(f"folder:{tmp_path}", message)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(f"folder:{tmp_path}/none", "there is no such folder")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    expect(f"folder:{tmp_path}", "cannot list .*: Permission denied; check its permissions")


def table(root: Path, text: str) -> str:
    for i in range(12):
        picture(root / f"i{i}.png", i)
    (root / "t.csv").write_text(text, encoding="utf-8")
    return f"csv:{root / 't.csv'}"


def rows(labels: list[str]) -> str:
    return "path,label\n" + "".join(f"i{i}.png,{label}\n" for i, label in enumerate(labels))


def test_csv_with_numbers(tmp_path: Path) -> None:
    splits = load_dataset(table(tmp_path, "\ufeff" + rows(["10", "9"] * 6)))
    assert splits.train.classes == ("9", "10")
    assert (len(splits.train), len(splits.test)) == (10, 2)
    assert torch.equal(splits.train.images[:, 0, 0, 0].long() % 2, 1 - splits.train.labels)


def test_csv_with_names_and_splits(tmp_path: Path) -> None:
    parts = ["train"] * 6 + ["test"] * 4 + ["val"] * 2
    lines = [f"{tmp_path / f'i{i}.png'},{'ba'[i % 2]},{part}" for i, part in enumerate(parts)]
    splits = load_dataset(table(tmp_path, "path,label,split\n\n" + "\n".join(lines)))
    assert splits.val is not None
    assert splits.train.classes == ("a", "b")
    assert [part.images[:, 0, 0, 0].tolist() for part in (splits.train, splits.test, splits.val)] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9],
        [10, 11],
    ]
    assert splits.train.labels.tolist() == [1, 0] * 3
    without_test = load_dataset(table(tmp_path, "path,label,split\n" + "\n".join(lines[:6] + lines[10:])))
    assert without_test.val is None
    assert len(without_test.test) == 2


CSV_MISTAKES = {
    "empty": ("", "first line is ''"),
    "no header": ("i0.png,a\n", "first line is 'i0.png,a', it must be path,label"),
    "other column": ("path,label,x\n", "it must be path,label or path,label,split"),
    "no rows": ("path,label\n", "has no rows after its header"),
    "too few values": ("path,label\ni0.png\n", "line 2: expected 2 values"),
    "too many values": ("path,label\ni0.png,a,b\n", "line 2: expected 2 values"),
    "empty label": ("path,label\ni0.png,\n", "line 2: expected 2 values that are not empty"),
    "bad split": ("path,label,split\ni0.png,a,dev\n", "line 2: split is 'dev', allowed is train, test or val"),
    "quotes": ('path,label\n"i0.png,a\n', "is not a CSV file in UTF-8"),
    "one class": (rows(["a"] * 3), "at least two classes, it has 3 of 'a'"),
    "missing image": (rows(["a", "b", "a", "b"]) + "none.png,a\n", "there is no image .*none.png; correct the path"),
    "no test rows": ("path,label,split\ni0.png,a,train\ni1.png,b,train\n", "no row whose split is test or val"),
    "no train rows": ("path,label,split\ni0.png,a,test\ni1.png,b,val\n", "no row whose split is train"),
    "class in test only": ("path,label,split\ni0.png,a,train\ni1.png,b,test\n", "no train row of class 'b'"),
    "one sample": (rows(["a", "a", "b"]), "class 'b' has 1 sample"),
    "zero byte": ("path,label\ni\0.png,a\n", "line 2"),
}


@pytest.mark.parametrize("mistake", CSV_MISTAKES)
def test_csv_mistakes(tmp_path: Path, mistake: str) -> None:
    text, message = CSV_MISTAKES[mistake]
    expect(table(tmp_path, text), message)


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    expect(f"csv:{tmp_path}/none.csv", "cannot read .*none.csv: No such file")
    expect(f"csv:{tmp_path}", "cannot read .*Is a directory")
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    expect(f"csv:{tmp_path / 't.csv'}", "is not a CSV file in UTF-8")
