"""Dataset and Splits: moving, selecting, fingerprints, holding out, limits; names and arguments of load_dataset."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mistakes import refused

from cifarfast.data import Dataset, Splits, list_datasets, load_dataset
from cifarfast.data.base import hold_out_test, make_dataset
from cifarfast.data.upscale import upscale
from cifarfast.errors import UserError

SMALL = "synthetic:classes=5,train=103,test=20,size=8"


def images_as_rows(dataset: Dataset) -> list[bytes]:
    return [image.numpy().tobytes() for image in dataset.images]


def tiny(labels: list[int], classes: int = 3) -> Dataset:
    images = np.arange(len(labels) * 12, dtype=np.int64).astype(np.uint8).reshape(-1, 2, 2, 3)
    names = [f"c{k}" for k in range(classes)]
    return make_dataset(images, np.array(labels), names, official=True, source="tiny")


def test_properties_and_to() -> None:
    dataset = tiny([0, 1, 2, 1])
    assert (len(dataset), dataset.num_classes, dataset.image_size, dataset.in_channels) == (4, 3, 2, 3)
    assert dataset.images.dtype == torch.uint8
    assert dataset.labels.dtype == torch.int64
    assert dataset.images.is_contiguous()
    moved = dataset.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert (moved.fingerprint, moved.classes, moved.official) == (dataset.fingerprint, dataset.classes, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.official = False  # type: ignore[misc]


@pytest.mark.gpu
def test_to_gpu() -> None:
    splits = load_dataset(SMALL, val_split=0.2).to("cuda")
    for part in (splits.train, splits.val, splits.test):
        assert part is not None
        assert part.images.is_cuda
        assert part.labels.is_cuda
    assert len(splits.train.select([0, 2])) == 2


def test_select_keeps_order_and_fingerprint() -> None:
    dataset = tiny([0, 1, 2, 1])
    part = dataset.select(torch.tensor([3, 0]))
    assert part.labels.tolist() == [1, 0]
    assert torch.equal(part.images, dataset.images[[3, 0]])
    assert part.fingerprint == dataset.fingerprint
    with pytest.raises(IndexError):
        dataset.select([4])


def test_fingerprint_sees_shape_pixels_and_labels() -> None:
    pixels = np.arange(48, dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])

    def fingerprint(images: np.ndarray, labels: np.ndarray = labels) -> str:
        return make_dataset(images, labels, "ab", official=False, source="x").fingerprint

    base = fingerprint(pixels.reshape(4, 2, 2, 3))
    assert base.startswith("sha256:")
    assert len(base) == 71
    changed = pixels.copy()
    changed[-1] += 1
    others = [
        fingerprint(pixels.reshape(4, 2, 6, 1)),
        fingerprint(changed.reshape(4, 2, 2, 3)),
        fingerprint(pixels.reshape(4, 2, 2, 3), np.array([1, 0, 0, 1])),
    ]
    assert len({base, *others}) == 4
    # neither the memory order nor the integer type of the source matters
    assert base == fingerprint(np.asfortranarray(pixels.reshape(4, 2, 2, 3)), labels.astype(np.uint8))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_out_of_range(labels: list[int]) -> None:
    with pytest.raises(UserError, match=r"tiny: label (3|-1) is out of range, allowed is 0…2"):
        tiny(labels)


def test_no_or_unequal_samples() -> None:
    with pytest.raises(UserError, match="no images"):
        tiny([])
    with pytest.raises(UserError, match="1 images but 2 labels"):
        make_dataset(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(2, int), "ab", official=False, source="x")


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.2, 0.5, 0.999])
def test_validation_is_stratified_disjoint_and_complete(fraction: float) -> None:
    whole, splits = load_dataset(SMALL), load_dataset(SMALL, val_split=fraction)
    assert splits.val is not None
    before = torch.bincount(whole.train.labels, minlength=5)
    held = torch.bincount(splits.val.labels, minlength=5)
    assert ((held - before * fraction).abs() < 1).all()
    assert held.min() >= 1
    assert (before - held).min() >= 1
    if 0.05 < fraction < 0.95:
        assert len(splits.val) == int(103 * fraction + 0.5)
    assert sorted(images_as_rows(splits.train) + images_as_rows(splits.val)) == sorted(images_as_rows(whole.train))
    assert not set(images_as_rows(splits.train)) & set(images_as_rows(splits.val))
    assert torch.equal(splits.test.images, whole.test.images)
    assert splits.fingerprint == whole.fingerprint


def test_validation_and_limit_depend_on_the_seed_alone() -> None:
    first, again, other = (halves(limit_train=40, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[1].images, again[1].images)
    assert torch.equal(first[0].images, again[0].images)
    assert not torch.equal(first[1].images, other[1].images)
    assert len(first[0]) == 40
    limited, drawn_otherwise = (load_dataset(SMALL, limit_train=40, seed=seed).train for seed in (1, 2))
    assert not torch.equal(limited.images, drawn_otherwise.images)
    # the limit takes from what the validation split left
    assert not set(images_as_rows(first[0])) & set(images_as_rows(first[1]))
    assert torch.equal(halves(seed=1)[1].images, first[1].images)


def halves(**settings: Any) -> tuple[Dataset, Dataset]:
    """The training part and the validation part."""
    splits = load_dataset(SMALL, **({"val_split": 0.2} | settings))
    assert splits.val is not None
    return splits.train, splits.val


def test_the_seed_of_the_split_can_be_another() -> None:
    own, shared, other = (halves(seed=s, split_seed=k) for s, k in ((1, None), (2, 1), (1, 2)))
    assert torch.equal(own[1].images, shared[1].images)
    assert torch.equal(own[0].images, shared[0].images)
    assert not torch.equal(own[1].images, other[1].images)
    folds = [halves(val_split=0.0, folds=3, fold=1, seed=s, split_seed=k)[1] for s, k in ((5, None), (2, 5))]
    assert torch.equal(folds[0].images, folds[1].images)


def test_without_val_split_there_is_no_validation_part() -> None:
    splits = load_dataset(SMALL, limit_train=103)
    assert splits.val is None
    assert torch.equal(splits.train.images, load_dataset(SMALL).train.images)


def test_class_with_one_sample_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"class 'c1' has 1 sample, too few to split"):
        hold_out_test(tiny([0, 0, 1]))
    with pytest.raises(UserError, match="too few to split"):
        load_dataset("synthetic:classes=4,train=7,test=4,size=8", val_split=0.5)


def test_class_without_samples_does_not_hinder_a_split() -> None:
    train, test = hold_out_test(tiny([0, 0, 0, 2, 2]))
    assert sorted(test.labels.tolist()) == [0, 2]
    assert sorted(train.labels.tolist()) == [0, 0, 2]


def test_describe_is_one_line() -> None:
    text = load_dataset(SMALL, val_split=0.2).describe()
    assert "\n" not in text
    assert "8×8×3" in text
    for piece in ("synthetic", "82 training", "21 validation", "20 test", "5 classes", "not the official data"):
        assert piece in text
    dataset = tiny([0, 1, 2])
    assert "official data" in Splits("tiny", dataset, None, dataset).describe()


def test_list_datasets() -> None:
    names = [name for name, _ in list_datasets()]
    assert len(names) == 12
    assert {"cifar10", "cifar100", "emnist_letters", "digits", "folder:DIR", "csv:FILE"} <= set(names)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar-10", "did you mean 'cifar10'"),
        ("CIFAR100", "did you mean 'cifar100'"),
        ("emnist", "did you mean 'emnist_"),
        ("digit", "did you mean 'digits'"),
        ("folder", "did you mean 'folder:DIR'"),
        ("zzz", "known are cifar10, cifar100"),
        ("folder:", "write folder:PATH"),
        ("csv:", "write csv:PATH"),
        ("synthetic:clases=3", "unknown setting 'clases', did you mean 'classes'"),
        ("synthetic:", "unknown setting ''"),
        ("synthetic:size=7", "size is '7', allowed is 8…256"),
        ("synthetic:train=x", "train is 'x', allowed is 1…1000000"),
        ("synthetic:channels=2", "channels is '2', allowed is 1 or 3"),
    ],
)
def test_bad_names(name: str, hint: str) -> None:
    with refused(hint):
        load_dataset(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_split": -0.1}, "val_split is -0.1"),
        ({"val_split": 1.0}, "val_split is 1.0"),
        ({"val_split": float("nan")}, "val_split is nan"),
        ({"limit_train": 0}, "limit_train is 0, allowed is 1 or more"),
        ({"limit_train": 104}, "limit_train is 104, but .* has 103 training samples"),
        ({"limit_train": 90, "val_split": 0.2}, "limit_train is 90, but .* has 82"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 16}, "image_size 16 is not available"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(SMALL, **arguments)  # type: ignore[arg-type]


def test_synthetic_is_the_same_for_every_seed_and_learnable() -> None:
    splits = load_dataset("synthetic", seed=5)
    assert splits.train.images.shape == (2000, 32, 32, 3)
    assert splits.test.images.shape == (500, 32, 32, 3)
    assert not splits.official
    assert splits.fingerprint == load_dataset("synthetic").fingerprint
    assert torch.bincount(splits.train.labels).tolist() == [200] * 10
    # the nearest class mean already beats chance (10 %) by far
    train, test = (part.images.flatten(1).float() for part in (splits.train, splits.test))
    means = torch.stack([train[splits.train.labels == label].mean(0) for label in range(10)])
    predicted = torch.cdist(test, means).argmin(1)
    assert (predicted == splits.test.labels).float().mean() > 0.5
    assert not set(images_as_rows(splits.train)) & set(images_as_rows(splits.test))


def test_synthetic_pixels_never_change() -> None:
    assert (
        load_dataset("synthetic").fingerprint
        == "sha256:c0600386e54346474296f72474dc7506110c7dae59f9c9341a87a9af587d0773"
    )


def test_synthetic_settings_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "synthetic:channels=1,classes=3,train=9,test=4,size=16"
    whole = load_dataset(name)
    assert whole.train.images.shape == (9, 16, 16, 1)
    assert whole.train.num_classes == 3
    monkeypatch.setattr("cifarfast.data.synthetic._CHUNK", 4)
    assert load_dataset(name).fingerprint == whole.fingerprint


@pytest.mark.parametrize("size", [8, 13, 32])
def test_upscale_is_bilinear(size: int) -> None:
    values = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    got = torch.from_numpy(upscale(values, size, maximum=16)).double()
    source = torch.from_numpy(values).double()[:, None] * 255 / 16
    expected = torch.nn.functional.interpolate(source, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    assert (got - expected).abs().max() <= 0.5 + 1e-9


def test_digits() -> None:
    splits = load_dataset("digits", seed=3)
    assert splits.official
    assert splits.train.images.shape == (1438, 32, 32, 1)
    assert splits.test.images.shape == (359, 32, 32, 1)
    assert splits.train.images.max() == 255
    assert splits.train.classes == tuple("0123456789")
    assert (
        splits.fingerprint
        == load_dataset("digits").fingerprint
        == "sha256:6a922bfc51f845f42779002028f051c0a47be0cd8e895c8eba111d32603f3024"
    )
    shares = torch.bincount(splits.test.labels) / (
        torch.bincount(splits.test.labels) + torch.bincount(splits.train.labels)
    )
    assert (shares - 0.2).abs().max() < 0.004
    assert load_dataset("digits", image_size=8).test.image_size == 8
    for size in (7, 257):
        with pytest.raises(UserError, match="allowed for digits is 8…256"):
            load_dataset("digits", image_size=size)


def test_data_dir_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARFAST_DATA", str(tmp_path / "there"))
    with pytest.raises(UserError, match="there/cifar-10-batches-py"):
        load_dataset("cifar10", download=False)
    monkeypatch.delenv("CIFARFAST_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is not at data/cifar-10-batches-py"):
        load_dataset("cifar10", download=False)
