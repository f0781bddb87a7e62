"""k-fold parts of the training data: disjoint, complete, balanced, drawn from the seed."""

import pytest
import torch
from mistakes import refused

from cifarfast.data import load_dataset

DATA = "synthetic:classes=5,train=103,test=20,size=8"


@pytest.mark.parametrize("folds", [2, 3, 7, 103])
def test_the_parts_are_disjoint_complete_and_balanced(folds: int) -> None:
    whole = load_dataset(DATA).train
    seen = []
    for fold in range(folds):
        splits = load_dataset(DATA, folds=folds, fold=fold, seed=3)
        assert splits.val is not None
        assert len(splits.train) + len(splits.val) == 103
        assert len(splits.val) in (103 // folds, -(-103 // folds))
        counts = torch.bincount(splits.val.labels, minlength=5)
        exact = torch.bincount(whole.labels, minlength=5) / folds
        assert (counts >= exact.floor()).all()
        assert (counts <= exact.ceil()).all()
        assert splits.fingerprint == load_dataset(DATA).fingerprint
        seen += [image.numpy().tobytes() for image in splits.val.images]
    assert sorted(seen) == sorted(image.numpy().tobytes() for image in whole.images)


def test_the_parts_are_drawn_from_the_seed() -> None:
    def part(seed: int, fold: int = 0) -> torch.Tensor:
        val = load_dataset(DATA, folds=4, fold=fold, seed=seed).val
        assert val is not None
        return val.images

    assert torch.equal(part(1), part(1))
    assert not torch.equal(part(1), part(2))
    assert not torch.equal(part(1), part(1, fold=1))
    kept = load_dataset(DATA, folds=4, seed=1, limit_train=10)
    assert len(kept.train) == 10
    assert kept.val is not None
    assert torch.equal(kept.val.images, part(1))


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"folds": 1}, "2…103"),
        ({"folds": 104}, "2…103"),
        ({"folds": -2}, "2…103"),
        ({"folds": 4, "fold": 4}, "0…3"),
        ({"folds": 4, "fold": -1}, "0…3"),
        ({"fold": 2}, "folds, the number of parts"),
        ({"folds": 4, "val_split": 0.1}, "only one of them"),
    ],
)
def test_wrong_folds(settings: dict[str, float], part: str) -> None:
    with refused(part):
        load_dataset(DATA, **settings)  # type: ignore[arg-type]
