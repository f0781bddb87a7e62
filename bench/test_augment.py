"""Seconds to augment 50,000 CIFAR images once: ours, torchvision v2 with worker processes, airbench's method, kornia.

Each time is the median of several runs with its 20 % and 80 % quantiles. Ours and the DataLoader take turns, and their
ratio is the median of the ratios of the pairs. Every contender starts from uint8 images in memory and ends with
normalised fp32 batches.

airbench augments a whole epoch as one tensor on the device: flip by a mask, crop by one masked copy for each possible
offset, cut out by a mask; ``airbench_epoch`` does that in our own code. It has no rotation and no policy.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bench.measure import Rates, quantiles
from cifarfast.augment import Augment, AutoAugment, CutMix, Cutout, RandomCrop, RandomFlip, RandomRotation, Transform
from cifarfast.data import load_dataset
from cifarfast.runs.environment import version

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


def synchronized(run: Callable[[int], Any], device: torch.device) -> Callable[[], None]:
    """``run`` with the number of its call, and a wait for the device."""
    numbers = iter(range(1_000_000))

    def epoch() -> None:
        run(next(numbers))
        if device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


def seconds(benchmark: Any, run: Callable[[int], Any], device: torch.device, runs: int) -> dict[str, Any]:
    """The seconds of an epoch over ``runs`` of them, after one to warm up; also the benchmark's own row."""
    benchmark.pedantic(synchronized(run, device), rounds=runs, warmup_rounds=1)
    return {**quantiles(benchmark.stats.stats.data), "runs": runs}


def seconds_of(epoch: Callable[[], Any]) -> float:
    start = time.perf_counter()
    epoch()
    return time.perf_counter() - start


def ours(name: str, cifar: tuple[Tensor, Tensor], dtype: torch.dtype = torch.float32) -> Callable[[int | Tensor], None]:
    """A function that augments one epoch, whose number it is given."""
    augment = Augment(OURS[name], MEAN, STD, dtype=dtype)
    order = torch.randperm(len(cifar[0])).to(cifar[0].device)

    def epoch(number: int | Tensor) -> None:
        for indices in order.split(BATCH):
            augment(*cifar, indices, number)

    return epoch


def loader_epoch(name: str, cifar: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """One epoch of torchvision's transforms in worker processes, which have been started."""
    data = TensorImages(cifar[0].cpu(), cifar[1].cpu(), name)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    next(iter(loader))

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


@pytest.fixture(autouse=True)
def enabled(benchmark: Any) -> None:
    if benchmark.disabled:
        pytest.skip("needs --benchmark-enable")


@pytest.mark.gpu
@pytest.mark.parametrize("name", OURS)
def test_kernel_time(
    name: str, cifar: tuple[Tensor, Tensor], device: torch.device, rates: Rates, benchmark: Any, record: Any
) -> None:
    """Kernel time of an epoch in bf16 at batch 512, from a CUDA graph of its launches, and the share of copy speed."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    run = ours(name, cifar, torch.bfloat16)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        run(0)
    graph = torch.cuda.CUDAGraph()
    epoch = torch.zeros(1, dtype=torch.int64, device=device)
    with torch.cuda.graph(graph, stream=stream):
        run(epoch)
    times = seconds(benchmark, lambda _: graph.replay(), device, 20)
    moved = cifar[0].numel() * (1 + 2)  # one byte read, two written
    row = {
        "transforms": name,
        "contender": "cifarfast, kernels alone",
        "dtype": "bfloat16",
        "batch": BATCH,
        "epoch_ms": {key: 1e3 * times[key] for key in ("p20", "median", "p80")},
        "bytes_per_second": moved / times["median"],
        "share_of_copy": moved / times["median"] / rates.bytes_per_second,
    }
    benchmark.extra_info.update(row)
    record(f"{name} kernels", row)


@pytest.mark.parametrize("name", OURS)
def test_augment(
    name: str, cifar: tuple[Tensor, Tensor], device: torch.device, short: bool, benchmark: Any, record: Any
) -> None:
    run = ours(name, cifar)
    row: dict[str, Any] = {"transforms": name, "contender": "cifarfast", "batch": BATCH}
    row |= {"threads": torch.get_num_threads(), "seconds": seconds(benchmark, run, device, 7)}
    # on a GPU the loader's time says nothing about ours, and it takes most of the benchmark's
    if name in THEIRS and not (short and device.type == "cuda"):
        row |= beside_loader(synchronized(run, device), loader_epoch(name, cifar), 2 if short else 5)
    benchmark.extra_info.update(row)
    record(f"{name} cifarfast", row)
    if name in THEIRS and device.type == "cpu" and (os.cpu_count() or 1) <= 2:
        assert row["ratio"]["median"] >= REQUIRED[name]


def beside_loader(mine: Callable[[], None], theirs: Callable[[], None], pairs: int) -> dict[str, Any]:
    """Turn by turn: the seconds of the loader's epochs and how many times as long each took as ours beside it."""
    ours, loader = zip(*((seconds_of(mine), seconds_of(theirs)) for _ in range(pairs)), strict=True)
    return {
        "torchvision_loader_seconds": {**quantiles(loader), "runs": pairs},
        "workers": WORKERS,
        "ratio": quantiles([b / a for a, b in zip(ours, loader, strict=True)]),
    }


def test_airbenchs_method(
    cifar: tuple[Tensor, Tensor], device: torch.device, short: bool, benchmark: Any, record: Any
) -> None:
    images = cifar[0].permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (MEAN, STD))
    theirs = seconds(benchmark, lambda _: airbench_epoch(images, mean, std), device, 3 if short else 5)
    row = {"transforms": "crop_flip_cutout", "contender": "airbench's method", "seconds": theirs}
    record("crop_flip_cutout airbench's method", row)


def test_kornia(cifar: tuple[Tensor, Tensor], device: torch.device, short: bool, benchmark: Any, record: Any) -> None:
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

    theirs = seconds(benchmark, epoch, device, 1 if short else 5)
    row = {"transforms": "crop_flip_cutout", "contender": "kornia", "version": version("kornia"), "batch": BATCH}
    record("crop_flip_cutout kornia", {**row, "seconds": theirs})
