"""The compiled CPU twin and the plain torch implementation give the same bits, for every transform, type and shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifarfast import augment as aug
from cifarfast.augment import Augment
from cifarfast.runtime import native_build

pytestmark = pytest.mark.skipif(native_build.load() is None, reason="no compiled extension")

WILD = {"degrees": (-200.0, 340.0), "translate": (0.2, 0.1), "scale": (0.5, 1.5), "shear_x": (-30.0, 30.0)}
LISTS: dict[str, list[aug.Transform]] = {
    "nothing": [],
    "crop_flip": [aug.RandomCrop(4), aug.RandomFlip()],
    "reflect_alternating": [aug.RandomCrop(4, "reflect"), aug.AlternatingFlip()],
    "edge_twice": [aug.RandomFlip(), aug.RandomCrop(3, "edge"), aug.RandomCrop(2), aug.Shift(1, -2, "reflect")],
    "rotation": [aug.RandomCrop(4), aug.RandomFlip(), aug.RandomRotation(15.0)],
    "rotation_bilinear": [aug.RandomCrop(4), aug.RandomRotation(15.0, "bilinear"), aug.RandomFlip()],
    "affine": [aug.RandomAffine(**WILD, p=0.7), aug.RandomShear(20.0), aug.RandomZoom(0.7, 1.2)],
    "affine_bilinear": [aug.RandomAffine(**WILD, interpolation="bilinear"), aug.RandomTranslate(0.3)],
    "jitter": [
        aug.RandomBrightness(0.5, 0.7),
        aug.RandomContrast(0.5, 0.7),
        aug.RandomColor(0.9),
        aug.RandomSharpness(0.9),
    ],
    "switches": [
        aug.RandomPosterize(3),
        aug.RandomSolarize(100.0),
        aug.RandomInvert(),
        aug.RandomEqualize(),
        aug.RandomAutoContrast(),
    ],
    "autoaugment": [aug.RandomCrop(4), aug.RandomFlip(), aug.AutoAugment()],
    "randaugment": [aug.RandAugment(3, 12), aug.RandomCrop(2)],
    "trivialaugment": [aug.TrivialAugment(interpolation="bilinear")],
    "cutout": [aug.RandomCrop(4), aug.Cutout(8, 3, p=0.6)],
    "cutmix": [aug.RandomFlip(), aug.AutoAugment(), aug.Cutout(8), aug.CutMix(0.7, 0.8)],
    "mixup": [aug.RandomFlip(), aug.Mixup(0.3)],
    "both_per_batch": [aug.RandomFlip(), aug.Cutout(5), aug.CutMix(1.0, per="batch"), aug.Mixup(0.2, per="batch")],
    "resize": [aug.RandomCrop(4), aug.Resize(side=71), aug.Cutout(9), aug.CutMix(1.0)],
    "resize_nearest": [aug.AutoAugment(), aug.Resize(factor=3, interpolation="nearest"), aug.Mixup(1.0)],
}


def assert_same(
    transforms: list[aug.Transform], images: Tensor, labels: Tensor, indices: Tensor, epoch: int = 1, **options: object
) -> None:
    channels = images.shape[3]
    mean, std = [0.49, 0.48, 0.44][:channels], [0.2, 0.21, 0.22][:channels]
    plain, native = (
        Augment(transforms, mean, std, seed=3, backend=backend, **options)(images, labels, indices, epoch)  # type: ignore[arg-type]
        for backend in ("torch", "native")
    )
    assert plain.images.stride() == native.images.stride()
    for name in ("images", "labels", "labels_b", "lam"):
        a, b = getattr(plain, name), getattr(native, name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b), name


@pytest.mark.parametrize("transforms", LISTS.values(), ids=LISTS.keys())
def test_same_bits(cifar, transforms):
    indices = torch.arange(7, 1000, 7)
    for epoch in (0, 1):
        assert_same(transforms, *cifar, indices, epoch)
    assert_same(transforms, *cifar, indices, dtype=torch.bfloat16, pad_channels=4)
    assert_same(transforms, *cifar, indices, dtype=torch.float16, channels_last=False, pad_channels=8)
    assert_same(transforms, *cifar, torch.arange(900, 1100), augmented_copy=True)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(LISTS)),
    st.tuples(st.integers(6, 33), st.integers(6, 33), st.sampled_from([1, 3])),
    st.integers(0, 40),
    st.integers(0, 2**32),
)
def test_same_bits_for_any_shape(name, shape, batch, seed):
    transforms = LISTS[name]
    if name.startswith("resize"):
        transforms = [aug.RandomCrop(4), aug.Resize(factor=2), aug.Cutout(9), aug.CutMix(1.0)]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (20, *shape), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 10, (20,), generator=generator)
    indices = torch.randint(0, 20, (batch,), generator=generator)
    assert_same(transforms, images, labels, indices, epoch=seed % 5)


def test_result_does_not_depend_on_the_number_of_threads(cifar):
    augment = Augment(LISTS["cutmix"], [0.5] * 3, [0.2] * 3, backend="native")
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(augment(*cifar, torch.arange(500), 0).images)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
