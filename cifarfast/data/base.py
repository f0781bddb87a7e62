"""What every loader returns, `Dataset` and `Splits`, with their fingerprint; holding out and limiting samples."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..random import Purpose, permutation
from .duplicates import also_in

# Philox "epochs" of Purpose.SPLIT, so that the kinds of split never share a draw
_VALIDATION, _FIXED_TEST, _FOLDS = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one size, in memory as a whole.

    Attributes:
        images: uint8 ``[N, H, W, C]``, contiguous, on the same device as ``labels``.
        labels: int64 ``[N]``, each in ``[0, num_classes)``.
        classes: the class names; a label is a position in it.
        fingerprint: ``"sha256:<hex>"`` of shape, pixels and labels as they were loaded. `select` keeps it, so that a
            validation split or a limit does not change what the data is called.
        official: True only when checksums show that the files read are the ones the data set's authors published.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str
    official: bool

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, whether or not each has a sample here."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Height in pixels, which is also the width."""
        return self.images.shape[1]

    @property
    def in_channels(self) -> int:
        """1 (grey) or 3 (red, green, blue)."""
        return self.images.shape[3]

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with both tensors on ``device`` (not copied when they are there already)."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, indices: Tensor | Sequence[int]) -> "Dataset":
        """The samples at ``indices`` (int64 ``[M]``), copied, in that order; raises ``IndexError`` outside the set."""
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        return replace(self, images=self.images[index], labels=self.labels[index])


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set's parts. ``val`` is None unless one was asked for or comes with the data; ``test`` is for evaluation
    only and never for choosing anything. ``notes`` are lines on what of the files was not used.
    """

    name: str
    train: Dataset
    val: Dataset | None
    test: Dataset
    notes: tuple[str, ...] = ()

    @cached_property
    def train_images_in_test(self) -> int:
        """Training images whose pixels are exactly those of a test image."""
        return int(also_in(self.train.images, self.test.images).sum())

    @property
    def fingerprint(self) -> str:
        """``"sha256:<hex>"`` over the fingerprints of the training, the test and an own validation part as loaded."""
        parts = [self.train.fingerprint, self.test.fingerprint]
        if self.val is not None and self.val.fingerprint != self.train.fingerprint:  # not held out of the training part
            parts.append(self.val.fingerprint)
        return _sha256("\n".join(parts).encode())

    @property
    def official(self) -> bool:
        """True when both the training and the test part are the official data."""
        return self.train.official and self.test.official

    def to(self, device: torch.device | str) -> "Splits":
        """All parts on ``device``."""
        val = None if self.val is None else self.val.to(device)
        return replace(self, train=self.train.to(device), val=val, test=self.test.to(device))

    def describe(self) -> str:
        """One line: name, sizes, image shape, classes, and whether the data is official."""
        size, channels = self.train.image_size, self.train.in_channels
        val = "" if self.val is None else f", {len(self.val):,} validation"
        kind = "official data" if self.official else "not the official data"
        return (
            f"{self.name}: {len(self.train):,} training{val}, {len(self.test):,} test images of "
            f"{size}×{size}×{channels}, {self.train.num_classes} classes, {kind}, {self.fingerprint[:19]}…"
        )


def _sha256(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def make_dataset(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, official: bool, source: str
) -> Dataset:
    """Check the arrays, fingerprint them and wrap them as a `Dataset` on the CPU.

    Args:
        images: uint8 ``[N, H, W, C]``.
        labels: any integer type ``[N]``.
        classes: one name a class.
        official: see `Dataset`.
        source: where the data came from, for the error message.

    Raises:
        UserError: no samples, counts that differ, or a label outside ``[0, len(classes))``.
    """
    assert images.dtype == np.uint8
    assert images.ndim == 4
    if len(images) != len(labels):
        raise UserError(f"{source}: {len(images):,} images but {len(labels):,} labels; get the data again")
    if len(images) == 0:
        raise UserError(f"{source}: no images; get the data again")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        bad = low if low < 0 else high
        raise UserError(
            f"{source}: label {bad} is out of range, allowed is 0…{len(classes) - 1} ({len(classes)} classes); "
            "get the data again, or check that it belongs to this data set"
        )
    images = np.ascontiguousarray(images)
    labels = np.ascontiguousarray(labels, dtype="<i8")
    shape = "x".join(map(str, images.shape)).encode()
    fingerprint = _sha256(shape, b";", images.data.cast("B"), labels.data.cast("B"))
    return Dataset(torch.from_numpy(images), torch.from_numpy(labels), tuple(classes), fingerprint, official)


def _quotas(counts: Sequence[int], fraction: float) -> list[int]:
    """How many samples of each class to hold out: the total is ``fraction`` of all, rounded; of each class its share
    rounded down or up, by largest remainder, and at least 1 sample of a class stays on either side.
    """
    shares = [count * fraction for count in counts]
    quotas = [min(max(int(share), 1), count - 1) if count else 0 for share, count in zip(shares, counts, strict=True)]
    missing = int(sum(counts) * fraction + 0.5) - sum(quotas)
    by_remainder = sorted(range(len(counts)), key=lambda label: int(shares[label]) - shares[label])
    for label in [label for label in by_remainder if quotas[label] < counts[label] - 1][: max(missing, 0)]:
        quotas[label] += 1
    return quotas


def _class_counts(dataset: Dataset) -> list[int]:
    """Samples of each class; raises `UserError` where a class has one only, which cannot be split."""
    counts: list[int] = torch.bincount(dataset.labels.cpu(), minlength=dataset.num_classes).tolist()
    if 1 in counts:
        raise UserError(
            f"class {dataset.classes[counts.index(1)]!r} has 1 sample, too few to split (2 are needed): "
            "add samples, drop the class, or split the data yourself"
        )
    return counts


def _by_class(dataset: Dataset, seed: int, epoch: int) -> Tensor:
    """Positions (int64 ``[N]``) of the classes in turn, each in random order."""
    labels = dataset.labels.cpu()
    order = permutation(len(labels), seed, Purpose.SPLIT, epoch)
    return order[torch.argsort(labels[order], stable=True)]


def _stratified_indices(dataset: Dataset, fraction: float, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Indices (kept, held out), each ascending: of every class the samples that come first in a random order."""
    counts = _class_counts(dataset)
    by_class = _by_class(dataset, seed, epoch)
    held_out = torch.zeros(len(dataset), dtype=torch.bool)
    start = 0
    for count, quota in zip(counts, _quotas(counts, fraction), strict=True):
        held_out[by_class[start : start + quota]] = True
        start += count
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def hold_out_test(dataset: Dataset, fraction: float = 0.2) -> tuple[Dataset, Dataset]:
    """Split into (train, test) by the fixed rule for data without a test part of its own.

    ``fraction`` of every class (at least 1 sample of a class on either side) becomes the test part: the samples that
    come first in a Philox order of the positions under key 0, whatever the run's seed. The fingerprint of either part
    covers its own samples.

    Raises:
        UserError: a class has only one sample.
    """
    parts = _stratified_indices(dataset, fraction, 0, _FIXED_TEST)
    train, test = (
        make_dataset(
            dataset.images[part].numpy(),
            dataset.labels[part].numpy(),
            dataset.classes,
            official=dataset.official,
            source="split",
        )
        for part in parts
    )
    return train, test


def hold_out_validation(splits: Splits, fraction: float, seed: int) -> Splits:
    """Move ``fraction``, in [0, 1), of every class of the training part to ``val``, drawn by Philox from ``seed``.

    Raises:
        UserError: a class with one sample, or data that brings a validation part of its own.
    """
    if fraction == 0:
        return splits
    if splits.val is not None:
        raise UserError(f"{splits.name} brings its own validation part; leave --val-split out")
    kept, held_out = _stratified_indices(splits.train, fraction, seed, _VALIDATION)
    return replace(splits, train=splits.train.select(kept), val=splits.train.select(held_out))


def hold_out_fold(splits: Splits, folds: int, fold: int, seed: int) -> Splits:
    """Move part ``fold`` of ``folds`` of the training part to ``val``, drawn by Philox from ``seed``.

    The parts are disjoint and together the whole training part. They differ by at most one sample in size, and by at
    most one in the samples of each class: the classes in turn, each in random order, are dealt out like cards.

    Raises:
        UserError: fewer than 2 folds or more than samples, a fold that there is not, a class with one sample, or data
            that brings a validation part of its own.
    """
    size = len(splits.train)
    if not 2 <= folds <= size:
        raise UserError(f"folds is {folds}, allowed for {size:,} training samples is 2…{size:,}")
    if not 0 <= fold < folds:
        raise UserError(f"fold is {fold}, allowed with {folds} folds is 0…{folds - 1}")
    if splits.val is not None:
        raise UserError(f"{splits.name} brings its own validation part; leave folds out")
    _class_counts(splits.train)
    part = torch.empty(size, dtype=torch.int64)
    part[_by_class(splits.train, seed, _FOLDS)] = torch.arange(size) % folds
    kept, held_out = ((part != fold).nonzero()[:, 0], (part == fold).nonzero()[:, 0])
    return replace(splits, train=splits.train.select(kept), val=splits.train.select(held_out))


def without_train_duplicates(splits: Splits) -> Splits:
    """The splits without the training images whose pixels are those of a test image, with a note on how many.

    Raises:
        UserError: no training image is left.
    """
    shared = also_in(splits.train.images, splits.test.images)
    dropped = int(shared.sum())
    if dropped == len(splits.train):
        raise UserError(f"{splits.name}: every training image is in the test part too, none is left to train on")
    if not dropped:
        return splits
    note = f"left out {dropped:,} of {len(shared):,} training images: they are in the test part too"
    return replace(splits, train=splits.train.select((~shared).nonzero()[:, 0]), notes=(*splits.notes, note))


def limit_training(splits: Splits, limit: int | None, seed: int) -> Splits:
    """Keep ``limit >= 1`` training samples, a random subset drawn by Philox from ``seed``, in their original order.

    The subset is not stratified. None keeps all.

    Raises:
        UserError: ``limit`` above the size of the training part.
    """
    if limit is None:
        return splits
    size = len(splits.train)
    if limit > size:
        raise UserError(f"limit_train is {limit}, but {splits.name} has {size} training samples; give that or less")
    chosen = permutation(size, seed, Purpose.SUBSET, 0)[:limit].sort().values
    return replace(splits, train=splits.train.select(chosen))


def require_size(name: str, image_size: int | None, native: int) -> None:
    """Raise `UserError` when ``image_size`` is given and is not the data set's own."""
    if image_size is not None and image_size != native:
        raise UserError(f"{name} has {native}×{native} images, image_size {image_size} is not available: leave it out")
