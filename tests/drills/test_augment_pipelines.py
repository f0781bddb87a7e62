"""Line 9: random pipelines on random images: the compiled and the plain implementation give the same bits or the same
error, and neither ends the process."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cifarfast import augment as aug
from cifarfast.augment import Augment
from cifarfast.errors import UserError
from cifarfast.runtime import native_build

pytestmark = pytest.mark.skipif(native_build.load() is None, reason="no compiled extension")

Make = Callable[[random.Random], aug.Transform]
BILINEAR = ("nearest", "bilinear")
IMAGE_OPERATIONS: list[Make] = [
    lambda r: aug.RandomCrop(r.randint(0, 6), r.choice(["zero", "reflect", "edge"])),
    lambda r: aug.RandomFlip(r.choice([0.0, 0.5, 1.0])),
    lambda r: aug.AlternatingFlip(),
    lambda r: aug.Shift(r.randint(-4, 4), r.randint(-4, 4), r.choice(["zero", "reflect", "edge"])),
    lambda r: aug.RandomRotation(r.uniform(0, 180), r.choice(BILINEAR)),
    lambda r: aug.RandomShear(r.uniform(0, 80), interpolation=r.choice(BILINEAR)),
    lambda r: aug.RandomTranslate(r.uniform(0, 1)),
    lambda r: aug.RandomZoom(r.uniform(0.1, 1), r.uniform(1, 4)),
    lambda r: aug.RandomBrightness(r.uniform(0, 1)),
    lambda r: aug.RandomContrast(r.uniform(0, 1)),
    lambda r: aug.RandomColor(r.uniform(0, 1)),
    lambda r: aug.RandomSharpness(r.uniform(0, 1)),
    lambda r: aug.RandomPosterize(r.randint(0, 8)),
    lambda r: aug.RandomSolarize(r.uniform(0, 255)),
    lambda r: aug.RandomAutoContrast(),
    lambda r: aug.RandomEqualize(),
    lambda r: aug.RandomInvert(),
    lambda r: aug.AutoAugment(),
    lambda r: aug.RandAugment(r.randint(1, 3), r.randint(0, 30)),
    lambda r: aug.TrivialAugment(interpolation=r.choice(BILINEAR)),
]


def _pipeline(r: random.Random) -> list[aug.Transform]:
    transforms = [r.choice(IMAGE_OPERATIONS)(r) for _ in range(r.randint(0, 3))]
    if r.random() < 0.25:
        transforms.append(aug.Resize(side=r.randint(8, 40), interpolation=r.choice(BILINEAR)))
    if r.random() < 0.3:
        transforms.append(aug.Cutout(r.randint(1, 12), r.randint(1, 3), p=r.random()))
    per = r.choice(["sample", "batch"])
    if r.random() < 0.3:
        transforms.append(aug.CutMix(r.uniform(0.1, 2), r.random(), per=per))
    if r.random() < 0.3:
        transforms.append(aug.Mixup(r.uniform(0.1, 2), r.random(), per=per))
    return transforms


def _call(r: random.Random, seed: int) -> tuple[list[aug.Transform], dict[str, Any], tuple[Any, ...], dict[str, Any]]:
    """Transforms, settings, and the call's arguments: mostly such as fit, some at the edge of what does or beyond."""
    generator = torch.Generator().manual_seed(seed)
    n, channels = r.choice([0, 1, 2, 5, 9]), r.choice([1, 3])
    height, width = (r.choice([0, 1, 2, 3, 5, 8, 8, 11, 16]) for _ in range(2))
    images = torch.randint(0, 256, (n, height, width, channels), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=generator)
    low, high = r.choice([(0, max(n, 1))] * 6 + [(-1, n + 2)])
    indices = torch.randint(low, high, (r.choice([0, 1, 4, 7]),), generator=generator)
    epoch = r.choice([0, 1, 7, 2**32 - 1, 2**32, -1, 2**70, torch.tensor(3), torch.tensor([[7]]), torch.tensor(-2)])
    settings: dict[str, Any] = {
        "mean": [r.choice([0.0, 0.5, -1e6])] * channels,
        "std": [r.choice([0.2, 0.25, 1e-3, 1e-45])] * channels,
        "seed": r.choice([0, 1, 2**63 - 1]),
        "dtype": r.choice([torch.float32, torch.bfloat16, torch.float16]),
        "channels_last": r.random() < 0.5,
        "pad_channels": r.choice([None, channels + 1, 8]),
        "augmented_copy": r.random() < 0.2,
    }
    more: dict[str, Any] = {}
    if r.random() < 0.3:
        more["pool"] = torch.randperm(max(n, 1), generator=generator)[: r.randint(0, 9)] + r.choice([0, 0, 0, 5, -1])
    if r.random() < 0.2:
        more["batch_key"] = torch.tensor(r.choice([[0], [2**40], [1, 2]]))
    return _pipeline(r), settings, (images, labels, indices, epoch), more


def _outcome(transforms: list[aug.Transform], settings: dict[str, Any], call: tuple[Any, ...], more: Any) -> Any:
    try:
        return Augment(transforms, **settings)(*call, **more)
    except UserError as error:
        return str(error)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return (
        a.dtype == b.dtype
        and (a.stride() == b.stride() or a.numel() == 0)
        and torch.equal(a.isnan(), b.isnan())
        and bool(((a == b) | a.isnan()).all())
    )


def _fuzz(seconds: float | None, calls: int | None) -> tuple[Counter[str], list[str]]:
    """How often calls succeeded and were refused, and what the two implementations differ in."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    done, end = 0, time.monotonic() + (seconds or 0)
    while done < calls if calls is not None else time.monotonic() < end:
        r = random.Random(done)
        try:
            transforms, settings, call, more = _call(r, done)
        except UserError:
            counts["no such transform"] += 1
            done += 1
            continue
        plain, native = (
            _outcome(transforms, {**settings, "backend": backend}, call, more) for backend in ("torch", "native")
        )
        if isinstance(plain, str) or isinstance(native, str):
            same = plain == native
            counts["refused"] += 1
        else:
            same = all(_same(getattr(plain, k), getattr(native, k)) for k in ("images", "labels", "labels_b", "lam"))
            counts["same bits"] += 1
        if not same:
            shown = [x if isinstance(x, str) else "a batch" for x in (plain, native)]
            faults.append(f"{done}: {transforms} {settings} {list(call[0].shape)} {call[2:]} {more}: {shown}"[:600])
        done += 1
    return counts, faults


def test_line_9_both_implementations_agree_on_random_pipelines() -> None:
    counts, faults = _fuzz(None, 300)
    assert faults == []
    assert counts["same bits"] > 40
    assert counts["refused"] > 40


@pytest.mark.slow
def test_line_9_both_implementations_agree_on_random_pipelines_for_a_minute() -> None:
    assert _fuzz(60, None)[1] == []


IMAGES = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
CALL = (torch.arange(4), torch.arange(4))


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(
    ("images", "epoch", "pool", "message"),
    [
        (torch.zeros(4, 0, 8, 3, dtype=torch.uint8), 0, None, "images must have 1 to 4096 pixels a side, got 0×8"),
        (torch.zeros(4, 8, 0, 3, dtype=torch.uint8), 0, None, "images must have 1 to 4096 pixels a side, got 8×0"),
        (IMAGES, -1, None, r"epoch must be an int in \[0, 2³²\)"),
        (IMAGES, torch.tensor(2**32), None, r"epoch must be an int in \[0, 2³²\)"),
        (IMAGES, 0, torch.tensor([0, 4]), "pool must lie in 0 … N − 1 = 3"),
    ],
)
def test_line_9_what_is_refused(images: Tensor, epoch: Any, pool: Tensor | None, message: str, backend: str) -> None:
    augment = Augment([aug.Resize(side=16)], [0.5] * 3, [0.2] * 3, backend=backend)
    with pytest.raises(UserError, match=message):
        augment(images, *CALL, epoch, pool=pool)


def test_line_9_a_std_that_overflows_is_refused() -> None:
    with pytest.raises(UserError, match=r"std must not make values larger than 1e\+30, got mean 0\.5, std 1e-45"):
        Augment([], [0.5] * 3, [1e-45] * 3)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_line_9_the_shape_of_one_epoch_does_not_matter(backend: str) -> None:
    augment = Augment([aug.RandomFlip(), aug.RandomCrop(3)], [0.5] * 3, [0.2] * 3, backend=backend)
    images = torch.arange(4 * 8 * 8 * 3).to(torch.uint8).reshape(4, 8, 8, 3)
    plain = augment(images, *CALL, 7).images
    assert plain.shape == (4, 3, 8, 8)
    for epoch in (torch.tensor(7), torch.tensor([7]), torch.tensor([[7]])):
        assert torch.equal(augment(images, *CALL, epoch).images, plain)
