"""Real images and a way to read an augmented batch as bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cifarfast.augment import Augment, Transform
from cifarfast.augment.reference import Draws
from cifarfast.data import load_dataset
from cifarfast.runtime import native_build

SEED = 11
EPOCH = 3


@pytest.fixture(scope="session")
def cifar(real_data: Path) -> tuple[Tensor, Tensor]:
    """1,000 CIFAR-10 training images with the exact official pixels: uint8 [N, 32, 32, 3], labels int64 [N]."""
    train = load_dataset("cifar10", data_dir=real_data / "cifar-10-exact-sample", download=False).train
    return train.images[:1000].contiguous(), train.labels[:1000]


@pytest.fixture(scope="session", params=["torch", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and native_build.load() is None:
        pytest.skip(native_build.status().reason)
    return str(request.param)


Pixels = Callable[..., Tensor]


@pytest.fixture(scope="session")
def augmented(backend: str) -> Pixels:
    """Run transforms with a normalisation that changes nothing and return the pixels, fp32 [B, C, H, W]."""

    def run(transforms: Sequence[Transform], images: Tensor, count: int) -> Tensor:
        channels = images.shape[3]
        augment = Augment(transforms, [0.0] * channels, [1 / 255] * channels, seed=SEED, backend=backend)
        labels = torch.zeros(len(images), dtype=torch.int64)
        return augment(images, labels, torch.arange(count), EPOCH).images

    return run


@pytest.fixture(scope="session")
def draws() -> Callable[[int], Draws]:
    """The random words of the first samples, as the transforms under test draw them."""
    return lambda count: Draws(SEED, EPOCH, torch.arange(count))
