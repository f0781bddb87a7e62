"""Seconds to augment 50,000 CIFAR images once: ours, torchvision v2 with worker processes, airbench's method, kornia.

Every contender starts from uint8 images in memory and ends with normalised fp32 batches. airbench augments a whole
epoch as one tensor on the device: flip by a mask, crop by one masked copy for each possible offset, cut out by a mask;
``airbench_epoch`` does that in our own code. It has no rotation and no policy.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from cifarfast.augment import (
    Augment,
    AutoAugment,
    CutMix,
    Cutout,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    Transform,
)
from cifarfast.data import load_dataset

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
BATCH = 512
WORKERS = 2
OURS: dict[str, list[Transform]] = {
    "crop_flip_cutout": [RandomCrop(4), RandomFlip(), Cutout(8)],
    "sa_autoaugment": [RandomCrop(4), RandomFlip(), RandomRotation(15.0), AutoAugment()],
    "sa_autoaugment_cutmix": [RandomCrop(4), RandomFlip(), RandomRotation(15.0), AutoAugment(), CutMix(1.0)],
}
# how many times faster than the DataLoader ours must be on two CPU cores
REQUIRED = {"crop_flip_cutout": 25.0, "sa_autoaugment": 15.0}
THEIRS = {
    "crop_flip_cutout": [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip()],
    "sa_autoaugment": [
        v2.RandomCrop(32, 4),
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(15),
        v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    ],
}


class TensorImages(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory behind torchvision's transforms; an 8×8 hole is a RandomErasing of fixed size."""

    def __init__(self, images: Tensor, labels: Tensor, name: str) -> None:
        self.images = images.permute(0, 3, 1, 2).contiguous()
        self.labels = labels
        steps = [*THEIRS[name], v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        if "cutout" in name:
            steps.append(v2.RandomErasing(1.0, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0)))
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def airbench_epoch(images: Tensor, mean: Tensor, std: Tensor, padding: int = 4, hole: int = 8) -> Tensor:
    """One epoch of uint8 [N, C, H, W], crop, flip, cutout, normalise, as masked operations on the whole epoch."""
    count, _, side, _ = images.shape
    device = images.device
    padded = torch.nn.functional.pad((images.float() / 255 - mean) / std, (padding,) * 4, mode="reflect")
    flipped = torch.rand(count, 1, 1, 1, device=device) < 0.5
    padded = torch.where(flipped, padded.flip(3), padded)
    shifts = torch.randint(0, 2 * padding + 1, (2, count), device=device)
    rows = torch.empty(count, padded.shape[1], side, side + 2 * padding, device=device)
    out = torch.empty(count, padded.shape[1], side, side, device=device)
    for offset in range(2 * padding + 1):
        mask = shifts[0] == offset
        rows[mask] = padded[mask, :, offset : offset + side]
    for offset in range(2 * padding + 1):
        mask = shifts[1] == offset
        out[mask] = rows[mask, :, :, offset : offset + side]
    centres = torch.randint(0, side, (2, count), device=device)
    distance = torch.arange(side, device=device)[None, None] - (centres - hole // 2)[:, :, None]
    inside = (distance >= 0) & (distance < hole)
    return out.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


@pytest.fixture(scope="module")
def cifar(real_data: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The 50,000 training images on the device."""
    train = load_dataset("cifar10", data_dir=real_data, download=False).train
    return train.images.to(device), train.labels.to(device)


def seconds(benchmark: Any, run: Callable[[int], Any], device: torch.device, rounds: int) -> float:
    """The median epoch, after one to warm up, as the benchmark's own row."""
    numbers = iter(range(1000))

    def epoch() -> None:
        run(next(numbers))
        if device.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(epoch, rounds=rounds, warmup_rounds=1)
    return float(benchmark.stats.stats.median)


def ours(name: str, cifar: tuple[Tensor, Tensor], dtype: torch.dtype = torch.float32) -> Callable[[int], None]:
    augment = Augment(OURS[name], MEAN, STD, dtype=dtype)
    order = torch.randperm(len(cifar[0])).to(cifar[0].device)

    def epoch(number: int) -> None:
        for indices in order.split(BATCH):
            augment(*cifar, indices, number)

    return epoch


def loader_seconds(name: str, cifar: tuple[Tensor, Tensor]) -> float:
    """One epoch of torchvision's transforms in worker processes, the start of the workers left out."""
    data = TensorImages(cifar[0].cpu(), cifar[1].cpu(), name)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)

    def epoch() -> Iterator[Any]:
        yield from loader

    next(epoch())
    start = time.perf_counter()
    for _ in epoch():
        pass
    return time.perf_counter() - start


@pytest.fixture(autouse=True)
def enabled(benchmark: Any) -> None:
    if benchmark.disabled:
        pytest.skip("needs --benchmark-enable")


@pytest.mark.parametrize("name", OURS)
def test_augment(name: str, cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any) -> None:
    mine = seconds(benchmark, ours(name, cifar), device, 7)
    row: dict[str, Any] = {"contender": "cifarfast", "seconds": mine, "batch": BATCH}
    row["threads"] = torch.get_num_threads()
    if name in THEIRS:
        loader = loader_seconds(name, cifar)
        ratio = loader / mine
        row |= {"torchvision_loader_seconds": loader, "workers": WORKERS, "ratio": ratio}
        if device.type == "cpu" and (os.cpu_count() or 1) <= 2:
            assert ratio >= REQUIRED[name]
    benchmark.extra_info.update(row)
    record(name, row)


def test_airbenchs_method(cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any) -> None:
    images = cifar[0].permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (MEAN, STD))
    theirs = seconds(benchmark, lambda _: airbench_epoch(images, mean, std), device, 3)
    record("crop_flip_cutout", {"contender": "airbench's method", "seconds": theirs})


def test_kornia(cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any) -> None:
    kornia = pytest.importorskip("kornia.augmentation")
    steps = kornia.AugmentationSequential(
        kornia.RandomCrop((32, 32), padding=4),
        kornia.RandomHorizontalFlip(),
        kornia.RandomErasing(scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0), p=1.0),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    images = cifar[0].permute(0, 3, 1, 2).contiguous()

    def epoch(_: int) -> None:
        for part in images.split(BATCH):
            steps(part.float() / 255)

    theirs = seconds(benchmark, epoch, device, 1)
    record("crop_flip_cutout", {"contender": "kornia", "seconds": theirs, "batch": BATCH})


@pytest.mark.gpu
@pytest.mark.parametrize("name", OURS)
def test_kernel_time(
    name: str, cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any
) -> None:
    """Kernel time of an epoch in bf16 at batch 512, from a CUDA graph of its launches, and the share of copy speed."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    run = ours(name, cifar, torch.bfloat16)
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(0)
    epoch = seconds(benchmark, lambda _: graph.replay(), device, 20)
    moved = cifar[0].numel() * (1 + 2)  # one byte read, two written
    row = {"epoch_ms": 1e3 * epoch, "bytes_per_second": moved / epoch}
    row["share_of_copy"] = row["bytes_per_second"] / copy_bandwidth(device)
    benchmark.extra_info.update(row)
    record(f"{name}_kernel", row)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(10):
        target.copy_(source)
    last.record()
    torch.cuda.synchronize()
    return 10 * 2 * source.numel() / (first.elapsed_time(last) * 1e-3)
