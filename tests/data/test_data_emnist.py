"""EMNIST: orientation, labels, plain and packed files, what makes data official, broken files."""

import gzip
import hashlib
import struct
import urllib.error
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from mistakes import refused
from torchvision.datasets import EMNIST

from cifarfast.data import load_dataset

KINDS = ("images-idx3", "labels-idx1")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def contents(split: str, classes: int, first: int = 0, n: int = 6) -> dict[str, bytes]:
    """The four files of a split, by name, with labels from ``first``."""
    files = {}
    for seed, part in enumerate(["train", "test"]):
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, (n, 28, 28))
        labels = np.r_[first, first + classes - 1, generator.integers(first, first + classes, n - 2)]
        for kind, array in zip(KINDS, (images, labels), strict=True):
            files[f"emnist-{split}-{part}-{kind}-ubyte"] = idx(array)
    return files


def write(folder: Path, files: dict[str, bytes], packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


def write_archive(
    path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes] = gzip.compress
) -> None:
    """A ``gzip.zip`` that counts as the official one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"gzip/{name}.gz", pack(content))
    monkeypatch.setattr(EMNIST, "md5", hashlib.md5(path.read_bytes()).hexdigest())


@pytest.mark.slow
def test_real_images_are_upright(real_data: Path) -> None:
    """torchvision keeps the transposed images of the files; its documentation has the user transpose them."""
    splits = load_dataset("emnist_balanced", data_dir=real_data, download=False)
    assert splits.train.images.shape == (8_000, 28, 28, 1)
    assert splits.test.images.shape == (1_120, 28, 28, 1)
    raw = EMNIST(real_data, split="balanced", train=False)
    assert torch.equal(splits.test.images[..., 0], raw.data.transpose(1, 2))
    assert torch.equal(splits.test.labels, raw.targets)
    assert splits.test.classes == tuple(raw.classes)
    # independent of torchvision: an upright "L" has its long stroke on the left and its foot at the bottom
    letter = splits.train.images[splits.train.labels == splits.train.classes.index("L"), :, :, 0].double().mean(0)
    assert letter[14:].sum() > 1.1 * letter[:14].sum()
    assert letter[:, :14].sum() > 1.1 * letter[:, 14:].sum()
    assert not splits.official


def test_real_byclass_and_bymerge(real_data: Path) -> None:
    byclass, bymerge = (load_dataset(f"emnist_by{kind}", data_dir=real_data / "EMNIST") for kind in ("class", "merge"))
    assert (byclass.train.num_classes, bymerge.train.num_classes) == (62, 47)
    assert len(byclass.train) == len(bymerge.train) == 98_323
    assert torch.equal(byclass.test.images, bymerge.test.images)
    names = [byclass.test.classes[label] for label in byclass.test.labels[:500]]
    merged = [bymerge.test.classes[label] for label in bymerge.test.labels[:500]]
    assert all(b in (a, a.upper()) for a, b in zip(names, merged, strict=True))


@pytest.mark.parametrize("split", EMNIST.splits)
@pytest.mark.parametrize("packed", [False, True])
def test_every_split(tmp_path: Path, split: str, packed: bool) -> None:
    names = [name for name in EMNIST.classes_split_dict[split] if name != "N/A"]
    first = 1 if split == "letters" else 0
    files = contents(split, len(names), first)
    write(tmp_path / "EMNIST" / "raw", files, packed)
    splits = load_dataset(f"emnist_{split}", data_dir=tmp_path, download=False)
    assert splits.train.classes == tuple(names)
    assert splits.train.labels[:2].tolist() == [0, len(names) - 1]
    image = np.frombuffer(files[f"emnist-{split}-test-{KINDS[0]}-ubyte"], np.uint8)[16:].reshape(6, 28, 28)
    np.testing.assert_array_equal(splits.test.images[..., 0].numpy(), image.transpose(0, 2, 1))


@pytest.mark.parametrize("inner", ["EMNIST/raw", "EMNIST", "raw", "."])
def test_folders(tmp_path: Path, inner: str) -> None:
    write(tmp_path / inner, contents("mnist", 10))
    assert len(load_dataset("emnist_mnist", data_dir=tmp_path, download=False).train) == 6


@pytest.mark.parametrize("place", ["EMNIST/raw/gzip.zip", "EMNIST/gzip.zip"])
def test_official_needs_the_archive(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, files = tmp_path / "EMNIST" / "raw", contents("digits", 10)
    write(raw, files)
    assert not load_dataset("emnist_digits", data_dir=tmp_path).official
    write_archive(tmp_path / place, files, monkeypatch)
    assert load_dataset("emnist_digits", data_dir=tmp_path).official
    changed = bytearray(files["emnist-digits-test-images-idx3-ubyte"])
    changed[100] ^= 1
    (raw / "emnist-digits-test-images-idx3-ubyte").write_bytes(changed)
    splits = load_dataset("emnist_digits", data_dir=tmp_path)
    assert (splits.train.official, splits.test.official) == (True, False)
    write(raw, files)
    monkeypatch.setattr(EMNIST, "md5", "0" * 32)
    assert not load_dataset("emnist_digits", data_dir=tmp_path).official


def test_archive_alone_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    files = contents("letters", 26, 1)
    write_archive(raw / "gzip.zip", files, monkeypatch)
    assert load_dataset("emnist_letters", data_dir=tmp_path, download=False).official
    assert {path.name for path in raw.iterdir()} == {"gzip.zip", *files}
    with refused("has no emnist-mnist-train-images-idx3-ubyte.gz"):
        load_dataset("emnist_mnist", data_dir=tmp_path, download=False)


def test_broken_member_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    write_archive(raw / "gzip.zip", contents("mnist", 10), monkeypatch, pack=lambda content: b"nonsense")
    with refused(match=r"cannot unpack .*gzip\.zip"):
        load_dataset("emnist_mnist", data_dir=tmp_path)
    assert [path.name for path in raw.iterdir()] == ["gzip.zip"]


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.zip"
    write_archive(source, contents("mnist", 10), monkeypatch)

    def fetch(url: str, root: str, *, filename: str, md5: str) -> None:
        assert (url, filename, md5) == (EMNIST.url, "gzip.zip", EMNIST.md5)
        (Path(root) / filename).write_bytes(source.read_bytes())

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", fetch)
    assert load_dataset("emnist_mnist", data_dir=tmp_path / "data").official


def test_missing_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", fail)
    for download, reason in ((True, "the download failed"), (False, "downloading is off")):
        with refused(match=rf"EMNIST is not at .*{reason}.*gzip\.zip"):
            load_dataset("emnist_mnist", data_dir=tmp_path, download=download)


IMAGES, LABELS = (f"emnist-mnist-train-{kind}-ubyte" for kind in KINDS)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda content: content[:-1], "is truncated: its header promises 4,704 values"),
        (IMAGES, lambda content: content + b"x", "has bytes left over"),
        (IMAGES, lambda content: content[:10], "is not an IDX file of 3 dimensions"),
        (IMAGES, lambda content: b"<html>" + content, "is not an IDX file"),
        (IMAGES, lambda content: content[:4] + b"\xff" * 12 + content[16:], "far more than EMNIST has"),
        (IMAGES, lambda content: idx(np.zeros((6, 28, 27))), "images are 28×27"),
        (IMAGES, lambda content: idx(np.zeros((5, 28, 28))), "5 images but 6 labels"),
        (LABELS, lambda content: content[:-1] + b"\x0a", "label 10 is out of range, allowed is 0…9"),
        (LABELS, lambda content: None, "incomplete: emnist-mnist-train-labels-idx1-ubyte missing"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, change: Any, message: str) -> None:
    files = contents("mnist", 10)
    write(tmp_path, files)
    changed = change(files[name])
    (tmp_path / name).unlink()
    if changed is not None:
        (tmp_path / name).write_bytes(changed)
    with refused(match=message):
        load_dataset("emnist_mnist", data_dir=tmp_path, download=False)


def test_broken_gzip(tmp_path: Path) -> None:
    write(tmp_path, contents("mnist", 10), packed=True)
    path = tmp_path / f"{IMAGES}.gz"
    for content in (path.read_bytes()[:-20], b"nonsense"):
        path.write_bytes(content)
        with refused(match=r"cannot read .*train-images"):
            load_dataset("emnist_mnist", data_dir=tmp_path, download=False)


def test_letters_without_their_offset_are_refused(tmp_path: Path) -> None:
    write(tmp_path, contents("letters", 26, 0))
    with refused("label -1 is out of range"):
        load_dataset("emnist_letters", data_dir=tmp_path, download=False)
