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
    train = load_dataset("cifar10", real_data).train
    return train.images.to(device), train.labels.to(device)


def seconds(run: Callable[[int], Any], device: torch.device, rounds: int) -> float:
    """The quickest of some epochs, after one to warm up."""
    times = []
    for epoch in range(rounds + 1):
        start = time.perf_counter()
        run(epoch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


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


@pytest.mark.parametrize("name", OURS)
def test_augment(name: str, cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any) -> None:
    if benchmark.disabled:
        pytest.skip("benchmarks are off")
    run = ours(name, cifar)
    numbers = iter(range(1000))
    benchmark.pedantic(lambda: run(next(numbers)), rounds=5, warmup_rounds=1)
    row = {"contender": "cifarfast", "device": device.type, "batch": BATCH, "threads": torch.get_num_threads()}
    row |= {"seconds": seconds(run, device, 3)}
    if name in THEIRS:
        loader = loader_seconds(name, cifar)
        row |= {"torchvision_loader_seconds": loader, "workers": WORKERS, "ratio": loader / row["seconds"]}
        benchmark.extra_info.update(row)
        if device.type == "cpu" and (os.cpu_count() or 1) <= 2:
            assert row["ratio"] >= REQUIRED[name]
    record(name, row)


def test_airbenchs_method(cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any) -> None:
    if benchmark.disabled:
        pytest.skip("benchmarks are off")
    images = cifar[0].permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (MEAN, STD))
    theirs = seconds(lambda _: airbench_epoch(images, mean, std), device, 2)
    mine = seconds(ours("crop_flip_cutout", cifar), device, 3)
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(airbench=theirs, cifarfast=mine)
    record("crop_flip_cutout_airbench", {"airbench_method_seconds": theirs, "seconds": mine, "ratio": theirs / mine})


def test_kornia(cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any) -> None:
    kornia = pytest.importorskip("kornia.augmentation")
    if benchmark.disabled:
        pytest.skip("benchmarks are off")
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

    theirs = seconds(epoch, device, 1)
    mine = seconds(ours("crop_flip_cutout", cifar), device, 3)
    benchmark.pedantic(lambda: None, rounds=1)
    record("crop_flip_cutout_kornia", {"kornia_seconds": theirs, "seconds": mine, "ratio": theirs / mine})


@pytest.mark.gpu
@pytest.mark.parametrize("name", OURS)
def test_kernel_time(
    name: str, cifar: tuple[Tensor, Tensor], device: torch.device, benchmark: Any, record: Any
) -> None:
    """Kernel time of an epoch in bf16 at batch 512, from a CUDA graph of its launches, and the share of copy speed."""
    if benchmark.disabled or device.type != "cuda":
        pytest.skip("needs a GPU and --benchmark-enable")
    run = ours(name, cifar, torch.bfloat16)
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(0)
    epoch = seconds(lambda _: graph.replay(), device, 10)
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / seconds(lambda _: target.copy_(source), device, 10)
    moved = cifar[0].numel() * (1 + 2)  # one byte read, two written
    benchmark.pedantic(lambda: None, rounds=1)
    row = {"epoch_ms": 1e3 * epoch, "bytes_per_second": moved / epoch, "share_of_copy": moved / epoch / copy}
    benchmark.extra_info.update(row)
    record(f"{name}_kernel", row)
