"""Mistakes are UserErrors, that is ValueErrors, that say what is allowed."""

import pytest
import torch

from cifarfast import augment as aug
from cifarfast.augment import Augment
from cifarfast.errors import UserError

IMAGES = torch.zeros(10, 8, 8, 3, dtype=torch.uint8)
LABELS = torch.arange(10)
INDICES = torch.arange(4)


def augment(transforms=(), **options):
    return Augment(transforms, [0.5] * 3, [0.2] * 3, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: aug.RandomCrop(-1), "padding must be an integer of at least 0, got -1"),
        (lambda: aug.RandomCrop(4, "reflekt"), "must be one of zero, reflect, edge.*did you mean 'reflect'"),
        (lambda: aug.RandomFlip(1.5), "p must be a number between 0 and 1, got 1.5"),
        (lambda: aug.CutMix(0.0), "alpha must be a number above 0, got 0.0"),
        (lambda: aug.Mixup(-1.0), "alpha must be a number above 0"),
        (lambda: aug.CutMix(1.0, probability=2.0), "probability must be a number between 0 and 1"),
        (lambda: aug.CutMix(1.0, per="image"), "per must be one of sample, batch"),
        (lambda: aug.Cutout(0), "length must be an integer of at least 1"),
        (lambda: aug.Cutout(4, count=99), "count must be an integer from 1 to 16"),
        (lambda: aug.RandomPosterize(9), "bits must be an integer from 0 to 8"),
        (lambda: aug.RandomSolarize(300.0), "threshold must be a number between 0 and 255"),
        (lambda: aug.RandomShear(89.0), "degrees must be a number between 0 and 80"),
        (lambda: aug.RandomAffine(scale=(1.2, 0.8)), "low ≤ high"),
        (lambda: aug.RandomAffine(translate=0.1), "translate must be a pair of numbers, got 0.1"),
        (lambda: aug.RandomAffine(degrees=(0, float("nan"))), "degrees must be a number between -360 and 360, got nan"),
        (lambda: aug.RandAugment(2, 31), "magnitude must be an integer from 0 to 30"),
        (lambda: aug.Resize(), "give either side or factor"),
        (lambda: aug.views("mirrors"), "did you mean 'mirror'"),
        (lambda: aug.transform_from_name("RandomCorp"), "unknown transform 'RandomCorp', did you mean 'RandomCrop'"),
        (lambda: aug.transform_from_name("RandomCrop", pading=3), "did you mean 'padding'"),
        (lambda: aug.build(crop_paddin=3), "unknown augmentation setting 'crop_paddin', did you mean 'crop_padding'"),
        (lambda: aug.build(cutmix_alpha=-1.0), "cutmix_alpha .0 switches it off. must be a number at least 0"),
        (lambda: aug.build(mix_probability=-0.5), "mix_probability must be a number between 0 and 1, got -0.5"),
        (lambda: aug.build(rotation=400.0), "rotation must be a number between 0 and 360"),
        (lambda: aug.build(mix_start=1.5), "mix_start must be a number between 0 and 1"),
        (lambda: aug.build(auto_augment="cifar"), "auto_augment must be one of none, cifar10, rand, trivial"),
        (lambda: augment(["flip"]), "transforms must be Transform objects, got 'flip'"),
        (lambda: augment([aug.Cutout(4), aug.RandomFlip()]), "RandomFlip cannot follow Cutout"),
        (lambda: augment([aug.CutMix(), aug.CutMix()]), "at most one CutMix"),
        (lambda: augment([aug.CutMix(), aug.Mixup(per="batch")]), "same per"),
        (lambda: augment(dtype=torch.int8), "dtype must be float32, bfloat16 or float16"),
        (lambda: augment(pad_channels=2), "pad_channels must be an integer from 3 to 64"),
        (lambda: augment(backend="cuda"), "backend must be one of auto, native, torch"),
        (lambda: Augment([], [0.5] * 3, [0.0] * 3), "std must be a number above 0"),
        (lambda: Augment([], [0.5] * 3, [0.2]), "mean and std"),
    ],
)
def test_settings(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([aug.RandomCrop(9)], "RandomCrop on 8×8 images: padding must be an integer from 0 to 8, got 9"),
        ([aug.RandomCrop(8, "reflect")], "from 0 to 7"),
        ([aug.Cutout(17)], "length must be an integer from 1 to 16"),
        ([aug.Resize(side=7)], "side must be an integer from 8"),
        ([aug.RandomFlip()] * 33, "at most 32 image operations"),
    ],
)
def test_settings_that_the_image_size_does_not_allow(transforms, message):
    with pytest.raises(UserError, match=message):
        augment(transforms)(IMAGES, LABELS, INDICES, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES.float(), LABELS, INDICES, 0), "images must be contiguous uint8"),
        ((IMAGES[0], LABELS, INDICES, 0), "images must be contiguous uint8"),
        ((IMAGES.permute(0, 2, 1, 3), LABELS, INDICES, 0), "images must be contiguous uint8"),
        ((IMAGES[..., :1].contiguous(), LABELS, INDICES, 0), "images have 1 channels, mean and std have 3"),
        ((IMAGES, LABELS.int(), INDICES, 0), "labels must be int64"),
        ((IMAGES, LABELS, INDICES.float(), 0), "indices must be int64"),
        ((IMAGES, LABELS[:5], INDICES, 0), "labels must be one per image"),
    ],
)
def test_call(arguments, message, backend):
    with pytest.raises(UserError, match=message):
        augment(backend=backend)(*arguments)


@pytest.mark.parametrize("indices", [[0, 10], [-1, 2], [2**40, 0]])
def test_indices_out_of_range(indices, backend):
    subject = augment([aug.RandomCrop(2)], backend=backend)
    with pytest.raises(UserError, match="indices must lie in 0"):
        subject(IMAGES, LABELS, torch.tensor(indices), 0)
    assert subject(IMAGES, LABELS, INDICES, 0).images.shape == (4, 3, 8, 8)


def test_index_range_with_an_augmented_copy(backend):
    subject = augment([aug.RandomCrop(2)], augmented_copy=True, backend=backend)
    subject(IMAGES, LABELS, torch.tensor([19]), 0)
    with pytest.raises(UserError, match="2N"):
        subject(IMAGES, LABELS, torch.tensor([20]), 0)


def test_mixing_needs_a_partner(backend):
    with pytest.raises(UserError, match="at least 2 images"):
        augment([aug.CutMix()], backend=backend)(IMAGES[:1], LABELS[:1], torch.tensor([0]), 0)
    with pytest.raises(UserError, match="pool must lie in 0"):
        augment([aug.CutMix()], backend=backend)(IMAGES, LABELS, INDICES, 0, pool=torch.tensor([70, 80]))


def test_native_without_an_extension_is_an_error(monkeypatch):
    from cifarfast.runtime import native_build

    status = native_build.Status(False, False, "no C++ compiler")
    monkeypatch.setattr(native_build, "_loaded", (None, status))
    with pytest.raises(UserError, match=r"backend='native', but there is no compiled augmentation .*no C\+\+ compiler"):
        augment(backend="native")(IMAGES, LABELS, INDICES, 0)
    assert augment()(IMAGES, LABELS, INDICES, 0).images.shape == (4, 3, 8, 8)
