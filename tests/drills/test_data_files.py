"""Data is read within bounds; it is used, or the user is told.

The numbers in names are those of the requirements: 8 data files, 11 one scanner, 12 names, 13 the same image in
training and test, 14 pixels, 15 offline, 16 recipes, paths and array views.
"""

import dataclasses
import gzip
import hashlib
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import make_run
from mistakes import Fails, refused
from PIL import Image
from processes import run_inline

import cifarfast
from cifarfast.data import Splits, cifar, image_files, load_dataset, scan
from cifarfast.data.image_files import read_image
from cifarfast.inference.evaluation import Evaluation
from cifarfast.recipes.recipe import load_recipe, parse_recipe, to_toml
from cifarfast.report.page import write_report
from cifarfast.runs.run_folder import RunFolder

TINY = ["--arch=linear", "--epochs=1", "--batch-size=4", "--crop-padding=0"]
BATCHES = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


def picture(path: Path, value: int, size: int = 8) -> Path:
    """A grey PNG of one value, whatever the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), value).save(path, format="PNG")
    return path


def classes(root: Path, names: tuple[str, ...] = ("a", "b"), count: int = 3, first: int = 0) -> None:
    for k, name in enumerate(names):
        for i in range(count):
            picture(root / name / f"{i}.png", first + 20 * k + i)


def write_cifar10(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        rows = np.random.default_rng(seed).integers(0, 256, (4, 3072), np.uint8)
        entry = {"data": rows, "labels": [0, 1, 2, 3]} | (changes if name == BATCHES[0] else {})
        (folder / name).write_bytes(pickle.dumps(entry, 2))
    return folder


# 8: data files


def nested(depth: int) -> bytes:
    """A list of twice the list of twice … in 5 bytes a level: 2^depth strings when it is written out."""
    body = b"]q\x00" + b"".join(b"](h" + bytes([k]) + b"h" + bytes([k]) + b"eq" + bytes([k + 1]) for k in range(depth))
    return b"\x80\x02}U\x0blabel_names" + body + b"s."


@pytest.mark.parametrize(
    "content",
    [
        nested(60),
        b"\x80\x02}U\x0blabel_names" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
        pickle.dumps({"label_names": ["x" * 100_000] * 200_000}, 2),
        pickle.dumps({"label_names": ["n" * 5000 + str(k) for k in range(10)]}, 2),
        b"\x80\x02}q\x00T\x00\x00\x08\x00" + b"k" * 2**19 + b"q\x01" + b"h\x01Ns" * 100_000 + b".",
    ],
    ids=["twice the list", "depth", "one name again and again", "long names", "one key again and again"],
)
def test_line_8_batches_meta(content: bytes, tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "cifar-10-batches-py")
    (folder / "batches.meta").write_bytes(content)
    with refused(match="batches.meta"):
        load_dataset("cifar10", data_dir=tmp_path, download=False)


def test_line_8_labels_are_counted_before_they_are_widened(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", labels=np.zeros(10**6, np.uint8))
    with refused("data_batch_1: 4 images but 1,000,000 labels"):
        load_dataset("cifar10", data_dir=tmp_path, download=False)


def bounded(body: str, gigabytes: float) -> str:
    """What a program prints that may take this much memory beyond what its imports take."""
    start = """
        import resource
        from cifarfast.data import load_dataset
        from cifarfast.data.image_files import read_image
        from cifarfast.errors import UserError
        import PIL.PngImagePlugin, torchvision.datasets
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(GIGABYTES * 2**30),) * 2)
    """.replace("GIGABYTES", str(gigabytes))
    code = textwrap.dedent(start) + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_line_8_packed_emnist_that_grows(tmp_path: Path) -> None:
    """Two files whose headers claim 2.1 and 1.5 billion values, of which 64 million are there."""
    packer, zeros = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(2**24)
    body = b"".join(packer.compress(zeros) for _ in range(4)) + packer.flush()
    for name, header in (("large", (2_700_000, 28, 28)), ("wide", (1, 40_000, 40_000))):
        folder = tmp_path / name
        folder.mkdir()
        start = gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *header))
        for part in ("train", "test"):
            (folder / f"emnist-mnist-{part}-images-idx3-ubyte.gz").write_bytes(start + body)
            (folder / f"emnist-mnist-{part}-labels-idx1-ubyte.gz").write_bytes(b"")
        with refused(match="claims 2,700,000 images|images are 40000×40000"):
            load_dataset("emnist_mnist", data_dir=folder, download=False)


@pytest.mark.slow
def test_line_8_what_a_header_claims_takes_no_memory(tmp_path: Path) -> None:
    for part in ("train", "test"):
        header = struct.pack(">HBB3I", 0, 8, 3, 1_000_000, 28, 28)
        (tmp_path / f"emnist-mnist-{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(1000)))
        (tmp_path / f"emnist-mnist-{part}-labels-idx1-ubyte.gz").write_bytes(b"")
    said = bounded(
        f"""
        try:
            load_dataset("emnist_mnist", data_dir={str(tmp_path)!r}, download=False)
        except UserError as error:
            print(error, int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() < 2**30)
        """,
        1.5,
    )
    assert "is truncated: its header promises 784,000,000 values; get the data again True" in said


def png_of_zeros(path: Path, side: int, depth: int, rows: int) -> None:
    """A grey PNG whose pixels are all 0, made without having them in memory; ``rows`` of them are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + side * depth // 8)
    packed = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def test_line_8_image_bombs(tmp_path: Path) -> None:
    png_of_zeros(tmp_path / "bomb.png", 13_000, 16, rows=10)
    with refused("bomb.png: it has 13,000×13,000 pixels, at most 100,000,000 are read"):
        read_image(tmp_path / "bomb.png", 32, 1)
    with refused("at most 100,000,000"), Image.open(tmp_path / "bomb.png") as opened:
        image_files.to_pixels(opened, 32, 1)
        raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["I;16", "RGBA"])
def test_line_8_the_largest_image_takes_bounded_memory(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        png_of_zeros(tmp_path / "large.png", 10_000, 16, rows=10_000)
    else:
        Image.new("RGBA", (10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    said = bounded(
        f"from pathlib import Path\nprint(read_image(Path({str(tmp_path / 'large.png')!r}), 8, 3).max())", 1.75
    )
    assert said == ("0\n" if mode == "I;16" else "255\n")


@pytest.mark.parametrize("name", ["pipe", "zero"])
def test_line_8_pipes_and_devices_are_no_data(name: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if name == "zero" else tmp_path / "pipe"
    if name == "pipe":
        os.mkfifo(path)
    with refused(match="not a regular file"):
        load_dataset(f"csv:{path}")
    with refused(match="not a regular file"):
        read_image(path, 8, 1)
    with refused(match="not a regular file"):
        (tmp_path / "recipe.toml").symlink_to(path)
        load_recipe(str(tmp_path / "recipe.toml"))


def test_line_8_a_csv_file_answers_at_its_first_missing_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "there.png", 0)
    rows = ["there.png,a", "gone.png,b"] + [f"{k}.png,a" for k in range(5000)]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows))
    looked_at: list[str] = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked_at.append(path.name) or is_file(path))
    with refused("t.csv line 3: there is no image", "gone.png"):
        load_dataset(f"csv:{tmp_path / 't.csv'}")
    assert looked_at == ["there.png", "gone.png"]


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


# 14: pixels


def test_line_14_sixteen_bits_whose_values_fit_in_eight(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 3 + 66
    assert values.max() == 255
    for suffix in (".png", ".tiff"):
        Image.fromarray(values).save(tmp_path / f"small{suffix}")
        assert np.array_equal(read_image(tmp_path / f"small{suffix}", 8, 1)[..., 0], values)
        Image.fromarray(values + 1).save(tmp_path / f"large{suffix}")
        expected = np.round((values + 1) * (255 / 65535))
        assert np.array_equal(read_image(tmp_path / f"large{suffix}", 8, 1)[..., 0], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "L", "I;16"])
@pytest.mark.parametrize(("background", "shown"), [("white", 255), ("black", 0), ("none", 60)])
def test_line_14_transparency_is_laid_on_a_background(mode: str, background: Any, shown: int, tmp_path: Path) -> None:
    """The left half of an image of value 60 is transparent; the right half has value 90."""
    grey = np.full((8, 8), 90, np.uint8)
    grey[:, :4] = 60
    alpha = Image.fromarray(np.where(grey == 60, 0, 255).astype(np.uint8))
    path, options = tmp_path / "x.png", {}
    if mode == "I;16":
        picture, options = Image.fromarray(grey.astype(np.uint16)), {"transparency": 60}
    elif mode in ("RGB", "L"):
        picture, options = Image.fromarray(grey).convert(mode), {"transparency": 60 if mode == "L" else (60, 60, 60)}
    else:
        picture = Image.fromarray(grey).convert({"RGBA": "RGB", "LA": "L"}.get(mode, "P"))
        if picture.mode == "P":
            picture.putpalette([k for value in range(256) for k in (value,) * 3])
        if mode == "P":
            options = {"transparency": 60}
        else:
            picture.putalpha(alpha)
    assert picture.mode == mode
    if mode == "PA":  # no file has it
        found = image_files.to_pixels(picture, 8, 3, background)
    else:
        picture.save(path, **options)
        found = read_image(path, 8, 3, background)
    expected = np.where(grey == 60, shown, 90)
    assert np.array_equal(found, np.repeat(expected[..., None], 3, 2))


def test_line_14_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (1, 1), (100, 0, 200, 51))  # a fifth
    assert image_files.to_pixels(image, None, 3).tolist() == [[[224, 204, 244]]]
    assert image_files.to_pixels(image, None, 3, "black").tolist() == [[[20, 0, 40]]]


def test_line_14_data_sets_predict_and_python_share_the_recipe_s_background(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, name in enumerate("ab"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            image = Image.new("RGBA", (8, 8), (10 * k, i, 0, 255))
            image.putpixel((0, 0), (50, 50, 50, 0))
            image.save(tmp_path / "data" / name / f"{i}.png")
    for background, value in (("black", 0), ("white", 255)):
        run = tmp_path / background
        options = [f"--background={background}"] if background == "black" else []
        arguments = [f"--dataset=folder:{tmp_path / 'data'}", *TINY, *options, f"--out={run}"]
        assert run_inline(arguments).code == 0
        assert load_dataset(f"folder:{tmp_path / 'data'}", background=background).train.images[0, 0, 0, 0] == value
        model = cifarfast.load(run, device="cpu")
        file = tmp_path / "data" / "a" / "0.png"
        plain = np.full((8, 8, 3), 0, np.uint8)
        plain[0, 0] = value
        with Image.open(file) as opened:
            assert torch.equal(model.predict(opened), model.predict(plain))
        assert torch.equal(model.predict(str(file)), model.predict(plain))
        assert cifarfast.commands.cli.main(["predict", str(run), str(file)]) == 0
        confidence = 100 * float(model.predict(plain).max())
        assert f"{confidence:.1f} %" in capsys.readouterr().out


# 15: offline


@pytest.mark.parametrize(("name", "member"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_line_15_a_published_archive_in_the_data_folder(
    name: str, member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "cifar10":
        write_cifar10(tmp_path / "made" / member)
    else:
        (tmp_path / "made" / member).mkdir(parents=True)
        for seed, part in enumerate(("train", "test")):
            rows = np.random.default_rng(seed).integers(0, 256, (4, 3072), np.uint8)
            entry = {"data": rows, "fine_labels": [0, 1, 2, 99]}
            (tmp_path / "made" / member / part).write_bytes(pickle.dumps(entry, 2))
    data = tmp_path / "data"
    data.mkdir()
    archive = data / f"{member.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "made" / member, arcname=member)
    with refused(archive.name, "has the md5", "the published archive", match="get it again"):
        load_dataset(name, data_dir=data, download=False)
    assert [path.name for path in data.iterdir()] == [archive.name]
    family = cifar.family(name)
    monkeypatch.setattr(cifar, "family", lambda _: dataclasses.replace(family, archive_md5=digest(archive)))
    splits = load_dataset(name, data_dir=data, download=False)
    assert len(splits.train) in (4, 20)
    assert sorted(path.name for path in data.iterdir()) == sorted([archive.name, member])


def digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_line_15_names_are_checked_before_data_are_loaded(
    tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", dataset="synthetic:classes=3,train=40,test=12")

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("data were loaded")

    for place in ("registry.load_cifar", "registry.load_emnist", "registry.read_parts", "registry.load_synthetic"):
        monkeypatch.setattr(f"cifarfast.data.{place}", loaded)
    for arch in ("nope", "timm:nope", "torchvision:nope", "timm:resnet18.a1_in1k"):
        said = fails("train", f"--arch={arch}", f"--out={tmp_path / 'new'}", f"--data-dir={tmp_path}")
        assert arch.partition(":")[2].partition(".")[0] in said
    classes(tmp_path / "images", ("x", "y"))
    (tmp_path / "t.csv").write_text("path,label\nimages/x/0.png,x\nimages/y/0.png,y\n")
    for name in ("cifar10", "emnist_letters", f"folder:{tmp_path / 'images'}", f"csv:{tmp_path / 't.csv'}"):
        assert "have no mapping" in fails("evaluate", run.path, f"--dataset={name}", f"--data-dir={tmp_path}")


# 16: recipes, paths, views

RECIPE = 'arch = "lenet5"\nepochs = 3\n\n[about]\ndescription = "grüße"\n'


@pytest.mark.parametrize(
    ("encode", "reads"),
    [
        (lambda text: text.encode(), True),
        (lambda text: text.encode("utf-8-sig"), True),
        (lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"), True),
        (lambda text: text.encode("utf-16"), False),
        (lambda text: text.replace("üß", "us").encode("utf-16-le"), False),
        (lambda text: text.encode("latin-1"), False),
    ],
    ids=["UTF-8", "BOM", "CRLF", "UTF-16", "UTF-16 without BOM", "Latin-1"],
)
def test_line_16_encodings_of_recipes(encode: Callable[[str], bytes], reads: bool, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(encode(RECIPE))
    if reads:
        assert load_recipe(str(tmp_path / "mine.toml")) == parse_recipe(RECIPE, where="text", name="mine")
    else:
        with refused("mine.toml is not text in UTF-8: save it in that encoding"):
            load_recipe(str(tmp_path / "mine.toml"))


def test_line_16_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "r.toml").write_text('arch = "linear"\nepochs = 1\nbatch_size = 4\ncrop_padding = 0\n')
    classes(tmp_path / "data")
    main = cifarfast.commands.cli.main
    common = ["--recipe=~/r.toml", "--dataset=folder:~/data", "--data-dir=~"]
    assert main(["train", *common, "--out=~/run"]) == 0
    assert main(["augment-preview", *common, "--out=~/preview.png"]) == 0
    assert main(["evaluate", "~/run", "--dataset=folder:~/data"]) == 0
    assert main(["predict", "~/run", "~/data/a", "~/data/b/0.png"]) == 0
    assert main(["report", "~/run", "--out=~/report.html"]) == 0
    assert main(["export", "~/run", "--format=torch-export", "--out=~/model.pt2"]) == 0
    run = cifarfast.train("~/r.toml", dataset="folder:~/data", out="~/second", quiet=True)
    assert cifarfast.Run("~/second").path == run.path == tmp_path / "second"
    assert len(cifarfast.load("~/run", device="cpu").predict(["~/data/a/0.png"])) == 1
    assert main(["ensemble", "~/run", "~/second", "--weights", "1", "1", "--out=~/both"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"run", "preview.png", "report.html", "both", "model.pt2", "second"}
    assert list(elsewhere.iterdir()) == []
    for arguments in (["train", "--data-dir=~nobody-here"], ["evaluate", "~nobody-here/run"]):
        assert "~nobody-here" in fails(*arguments)


def test_line_16_array_views_equal_their_copies(tmp_path: Path) -> None:
    model = cifarfast.load(
        make_run(tmp_path / "run", dataset="synthetic:classes=3,train=40,test=12").path, device="cpu"
    )
    side, channels = model.image_size, model.in_channels
    drawn = np.random.default_rng(0)
    pixels = drawn.integers(0, 256, (6, side, side, channels), np.uint8)
    floats = drawn.random((6, channels, side, side), np.float32)
    for images in (pixels, floats):
        views = [
            *(images[::-1], images[::2], images[:, ::-1], images[..., ::-1], np.asfortranarray(images)),
            np.repeat(images, 2, axis=2)[:, :, ::2],
        ]
        if images is floats:
            views += [images.astype(">f4"), images.astype(np.float64)[::-1]]
        for view in views:
            copy = np.array(view, dtype=view.dtype.newbyteorder("="), order="C", copy=True)
            assert torch.equal(model.predict(view), model.predict(copy))
            if view.dtype.isnative and min(view.strides) >= 0:
                assert torch.equal(model.predict(torch.from_numpy(view)), model.predict(copy))
    with refused("images must be uint8"):
        model.predict(floats.astype(np.longdouble))


def test_line_16_paths_that_are_not_utf_8_stand_in_recipes() -> None:
    recipe = parse_recipe("", where="text", name="x")[0]
    path = os.fsdecode(b"folder:/caf\xe9/\xff")
    changed = cifarfast.recipes.recipe.with_settings(recipe, {"dataset": path, "data_dir": path}, "here")
    text = to_toml(changed)
    assert parse_recipe(text.encode().decode(), where="text", name="x")[0] == changed
