"""CIFAR: both layouts, official files by checksum, and every way a file can be wrong."""

import dataclasses
import hashlib
import pickle
import shutil
import subprocess
import sys
import textwrap
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from mistakes import refused
from torchvision.datasets import CIFAR10, CIFAR100

from cifarfast.data import Splits, cifar, load_dataset

BATCHES = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


def pixels_and_labels(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, 3072), np.uint8), generator.integers(0, classes, n)


def read(folder: Path, name: str = "cifar10") -> Splits:
    return load_dataset(name, data_dir=folder, download=False)


def write_python10(root: Path, per_batch: int = 4) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        rows, labels = pixels_and_labels(per_batch, 10, seed)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels.tolist()}, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": cifar._CIFAR10_CLASSES.split()}, 2))
    return folder


def write_binary10(root: Path, per_batch: int = 4) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        rows, labels = pixels_and_labels(per_batch, 10, seed)
        (folder / f"{name}.bin").write_bytes(np.hstack([labels[:, None].astype(np.uint8), rows]).tobytes())
    return folder


def write_python100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, name in enumerate(["train", "test"]):
        rows, labels = pixels_and_labels(6, 100, seed)
        entry = {"data": rows, "fine_labels": labels.tolist(), "coarse_labels": [0] * 6}
        (folder / name).write_bytes(pickle.dumps(entry, 2))
    return folder


def rewrite(path: Path, **changes: Any) -> None:
    entry = pickle.loads(path.read_bytes()) | changes
    path.write_bytes(pickle.dumps({key: value for key, value in entry.items() if value is not None}, 2))


def test_real_copy(real_data: Path) -> None:
    splits = read(real_data)
    for part, each in ((splits.train, 5_000), (splits.test, 1_000)):
        assert part.images.shape == (10 * each, 32, 32, 3)
        assert torch.bincount(part.labels).tolist() == [each] * 10
    assert splits.train.classes == tuple(cifar._CIFAR10_CLASSES.split())
    assert not splits.official
    # torchvision's own reading of the same files, without its checksum test
    reader = CIFAR10.__new__(CIFAR10)
    for train, part in ((True, splits.train), (False, splits.test)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CIFAR10, "_check_integrity", lambda self: True)
            patch.setattr(CIFAR10, "_load_meta", lambda self: None)
            CIFAR10.__init__(reader, real_data, train=train)
        assert torch.equal(part.images, torch.from_numpy(np.ascontiguousarray(reader.data)))
        assert part.labels.tolist() == reader.targets


def test_exact_sample(real_data: Path) -> None:
    splits = load_dataset("cifar10", data_dir=real_data / "cifar-10-exact-sample", download=False, val_split=0.1)
    assert splits.val is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4_500, 500, 1_000)
    assert not splits.official
    copy = read(real_data / "cifar-10-batches-py")
    assert torch.equal(splits.test.labels, copy.test.labels[:1_000])
    difference = splits.test.images.float() - copy.test.images[:1_000].float()
    assert difference.abs().mean() < 10  # the copy went through JPEG


@pytest.mark.parametrize("inner", [False, True])
def test_binary_and_python_layout_agree(tmp_path: Path, inner: bool) -> None:
    python, binary = write_python10(tmp_path / "a"), write_binary10(tmp_path / "b")
    first, second = (read(folder if inner else folder.parent) for folder in (python, binary))
    assert first.fingerprint == second.fingerprint
    assert first.train.classes == second.train.classes
    rows, labels = pixels_and_labels(4, 10, 2)
    assert first.train.labels[8:12].tolist() == labels.tolist()
    assert first.train.images[9, 3, 5].tolist() == [rows[1, c * 1024 + 3 * 32 + 5] for c in range(3)]


def test_cifar100_layouts_agree(tmp_path: Path) -> None:
    write_python100(tmp_path / "a")
    folder = tmp_path / "b" / "cifar-100-binary"
    folder.mkdir(parents=True)
    for seed, name in enumerate(["train.bin", "test.bin"]):
        rows, labels = pixels_and_labels(6, 100, seed)
        coarse = np.full((6, 1), 7, np.uint8)
        (folder / name).write_bytes(np.hstack([coarse, labels[:, None].astype(np.uint8), rows]).tobytes())
    first, second = (read(tmp_path / part, "cifar100") for part in "ab")
    assert first.fingerprint == second.fingerprint
    assert first.train.classes == second.train.classes
    assert first.train.num_classes == len(set(first.train.classes)) == 100
    assert first.train.labels.tolist() == pixels_and_labels(6, 100, 0)[1].tolist()
    assert sorted(first.train.classes) == list(first.train.classes)


def test_official_python_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_python10(tmp_path)

    def md5(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    assert not load_dataset("cifar10", data_dir=tmp_path).official
    train, test = {name: md5(name) for name in BATCHES[:5]}, {"test_batch": md5("test_batch")}
    layout = dataclasses.replace(cifar._CIFAR10_PYTHON, train=train, test=test)
    monkeypatch.setattr(cifar, "_CIFAR10_PYTHON", layout)
    assert not load_dataset("cifar10", data_dir=tmp_path).official  # the class names are not proven
    layout = dataclasses.replace(layout, names=("batches.meta", md5("batches.meta")))
    monkeypatch.setattr(cifar, "_CIFAR10_PYTHON", layout)
    splits = load_dataset("cifar10", data_dir=tmp_path)
    assert splits.official
    assert "official data" in splits.describe()
    rewrite(folder / "data_batch_3", labels=[0, 1, 2, 3])
    splits = load_dataset("cifar10", data_dir=tmp_path)
    assert (splits.train.official, splits.test.official, splits.official) == (False, True, False)


def test_official_binary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_binary10(tmp_path)
    sums = {path.name: hashlib.sha1(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    assert not load_dataset("cifar10", data_dir=tmp_path).official
    test = {"test_batch.bin": sums.pop("test_batch.bin")}
    layout = cifar.Layout("cifar-10-batches-bin", True, "sha1", sums, test, ("batches.meta.txt", None))
    monkeypatch.setattr(cifar, "_CIFAR10_BINARY", layout)
    assert load_dataset("cifar10", data_dir=tmp_path).official
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    splits = load_dataset("cifar10", data_dir=tmp_path)
    assert splits.train.classes == tuple("abcdefghij")
    assert not splits.official


@pytest.mark.parametrize(("name", "theirs"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_the_description_of_the_official_files_is_torchvisions(name: str, theirs: Any) -> None:
    ours = cifar.family(name)
    python = ours.layouts[0]
    assert (ours.url, ours.archive_md5, python.folder) == (theirs.url, theirs.tgz_md5, theirs.base_folder)
    assert (python.train, python.test) == (dict(theirs.train_list), dict(theirs.test_list))
    assert (*python.names, python.names_key) == (theirs.meta["filename"], theirs.meta["md5"], theirs.meta["key"])


def test_reading_does_not_import_torchvision(tmp_path: Path) -> None:
    write_python10(tmp_path)
    code = f"""
        import sys
        from cifarfast.data import load_dataset
        load_dataset("cifar10", data_dir={str(tmp_path)!r}, download=False)
        print("torchvision" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_checksums_are_of_the_right_form() -> None:
    for name in ("cifar10", "cifar100"):
        _, binary = cifar.family(name).layouts
        assert all(len(value) == 40 for value in {**binary.train, **binary.test}.values())


def test_missing_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        print("Downloading …")
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fail)
    for name, folder in (("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")):
        pieces = (folder, "https://www.cs.toronto.edu", "--dataset digits", "--data-dir")
        with refused(*pieces, match=r"the download failed.*no route to host"):
            load_dataset(name, data_dir=tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []  # nothing half done is left


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(url: str, root: str, *, filename: str, md5: str) -> None:
        assert (url, filename, md5) == (CIFAR100.url, CIFAR100.filename, CIFAR100.tgz_md5)
        print("Extracting …")
        write_python100(Path(root))

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    assert len(load_dataset("cifar100", data_dir=tmp_path / "data").train) == 6
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-100-python"]
    assert capsys.readouterr().out == ""


def test_data_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("nothing can be written there"):
        load_dataset("cifar10", data_dir=tmp_path / "file")


def expect(folder: Path, message: str) -> None:
    with refused(match=message):
        read(folder)


def test_missing_batch(tmp_path: Path) -> None:
    folder = write_python10(tmp_path)
    (folder / "data_batch_2").unlink()
    expect(tmp_path, "incomplete: data_batch_2 missing; complete it, or delete")
    write_binary10(tmp_path)
    assert len(load_dataset("cifar10", data_dir=tmp_path).train) == 20  # the complete copy wins


def test_truncated_batches(tmp_path: Path) -> None:
    folder = write_python10(tmp_path)
    content = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(content[:5000])
    expect(tmp_path, "data_batch_2 is not a CIFAR file: it is truncated")
    shutil.rmtree(folder)
    folder = write_binary10(tmp_path)
    content = (folder / "data_batch_4.bin").read_bytes()
    (folder / "data_batch_4.bin").write_bytes(content[:-1])
    expect(tmp_path, "data_batch_4.bin has 12,291 bytes, not a multiple of 3,073")
    (folder / "data_batch_4.bin").write_bytes(content[:3073])
    expect(tmp_path, "different numbers of images.*data_batch_4.bin 1,")
    (folder / "data_batch_4.bin").write_bytes(b"")
    expect(tmp_path, "data_batch_4.bin has 0 bytes")


def test_wrong_contents(tmp_path: Path) -> None:
    folder = write_python10(tmp_path)
    path = folder / "test_batch"
    good = path.read_bytes()
    rows, _ = pixels_and_labels(4, 10)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"labels": [0, 1, 10, 3]}, "test_batch: label 10 is out of range, allowed is 0…9"),
        ({"labels": [0, -1, 2, 3]}, "label -1 is out of range"),
        ({"labels": [0, 1, 2]}, "4 images but 3 labels"),
        ({"labels": ["cat"] * 4}, "labels are not a list of whole numbers"),
        ({"labels": [True] * 4}, "labels are not a list of whole numbers"),
        ({"labels": None}, "has no 'labels'"),
        ({"data": None}, "has no 'data'"),
        ({"data": rows[:, :3071]}, r"data is uint8 \[4, 3071\], expected uint8 \[N, 3072\]"),
        ({"data": rows.astype(np.int64)}, "data is int64"),
        ({"data": [1, 2]}, "data is list"),
    ]
    for changes, message in cases:
        path.write_bytes(good)
        rewrite(path, **changes)
        expect(tmp_path, message)


def test_plain_bytes_and_array_labels(tmp_path: Path) -> None:
    folder = write_python10(tmp_path)
    before = load_dataset("cifar10", data_dir=tmp_path).fingerprint
    for name in BATCHES[:3]:
        entry = pickle.loads((folder / name).read_bytes())
        rewrite(folder / name, data=entry["data"].tobytes(), labels=np.array(entry["labels"]))
    rewrite(folder / "data_batch_4", labels=bytes(pickle.loads((folder / "data_batch_4").read_bytes())["labels"]))
    assert load_dataset("cifar10", data_dir=tmp_path).fingerprint == before


@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_attack_in_a_file_does_not_run(tmp_path: Path, name: str) -> None:
    folder = write_python10(tmp_path)
    witness = tmp_path / "pwned"
    (folder / name).write_bytes(f"cos\nsystem\n(S'touch {witness}'\ntR.".encode())
    expect(tmp_path, f"{name} is not a CIFAR file: it asks for 'os.system'; nothing in it was run")
    assert not witness.exists()


def test_class_names(tmp_path: Path) -> None:
    folder = write_python10(tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    assert load_dataset("cifar10", data_dir=tmp_path).train.classes == tuple("abcdefghij")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abc")}, 2))
    expect(tmp_path, "does not list 10 different class names, as CIFAR-10 has")
    (folder / "batches.meta").unlink()
    assert load_dataset("cifar10", data_dir=tmp_path).train.classes[0] == "airplane"


def test_other_image_size(tmp_path: Path) -> None:
    write_python10(tmp_path)
    assert load_dataset("cifar10", data_dir=tmp_path, image_size=32).train.image_size == 32
    with refused("cifar10 has 32×32 images, image_size 64 is not available"):
        load_dataset("cifar10", data_dir=tmp_path, image_size=64)


def test_oversized_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_python10(tmp_path)
    monkeypatch.setattr(cifar, "_MAX_FILE_BYTES", 1000)
    expect(tmp_path, "bytes; at most 1,000 are read")
