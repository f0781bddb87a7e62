"""Small data sets as files, for the drills on data."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
