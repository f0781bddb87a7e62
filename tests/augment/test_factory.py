"""From settings to transforms, by name, views and the preview picture."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import cifarfast.augment
from cifarfast import augment as aug
from cifarfast.augment import Augment
from cifarfast.augment.factory import SETTINGS, TRANSFORMS
from cifarfast.augment.preview import caption, to_pixels

MIX = {"mix_probability": 0.5, "mix_per": "batch", "mix_start": 0.75}


@pytest.mark.parametrize(
    ("settings", "transforms"),
    [
        ({}, []),
        ({"epochs": 7, **{name: getattr(aug.AugmentSettings(), name) for name in SETTINGS}}, []),
        ({"crop_padding": 4, "flip": "random"}, [aug.RandomCrop(4), aug.RandomFlip()]),
        ({"flip": "random", "rotation": 15.0}, [aug.RandomFlip(), aug.RandomRotation(15.0)]),
        ({"crop_padding": 2, "crop_mode": "edge"}, [aug.RandomCrop(2, "edge")]),
        ({"crop_padding": 2, "flip": "alternating"}, [aug.RandomCrop(2), aug.AlternatingFlip()]),
        (
            {"rotation": 10.0, "translate": 0.1, "zoom": 0.2, "shear": 5.0, "interpolation": "bilinear"},
            [aug.RandomAffine((-10.0, 10.0), (0.1, 0.1), (0.8, 1.2), (-5.0, 5.0), (0.0, 0.0), "bilinear")],
        ),
        ({"brightness": 0.1, "contrast": 0.2}, [aug.RandomBrightness(0.1), aug.RandomContrast(0.2)]),
        ({"contrast": 0.2, "color": 0.3}, [aug.RandomContrast(0.2), aug.RandomColor(0.3)]),
        ({"color": 0.3, "sharpness": 0.4}, [aug.RandomColor(0.3), aug.RandomSharpness(0.4)]),
        ({"auto_augment": "cifar10", "interpolation": "bilinear"}, [aug.AutoAugment("bilinear")]),
        ({"auto_augment": "rand", "rand_ops": 3, "rand_magnitude": 5}, [aug.RandAugment(3, 5)]),
        ({"auto_augment": "trivial"}, [aug.TrivialAugment()]),
        ({"resize": 96, "cutout": 8, "cutout_count": 2}, [aug.Resize(side=96), aug.Cutout(8, 2)]),
        # mixing starts at a fraction of the training
        ({"epochs": 100, "cutmix_alpha": 1.0, **MIX}, [aug.CutMix(1.0, 0.5, "batch", 75)]),
        ({"epochs": 10, "mixup_alpha": 0.2, "mix_start": 0.75}, [aug.Mixup(0.2, 1.0, "sample", 8)]),
        (
            {"epochs": 10, "cutmix_alpha": 1.0, "mixup_alpha": 0.2, "mix_start": 0.3},
            [aug.CutMix(1.0, start_epoch=3), aug.Mixup(0.2, start_epoch=3)],
        ),
    ],
)
def test_settings_become_transforms_in_order(settings, transforms):
    assert aug.build(**settings) == transforms


def test_transforms_by_name():
    assert aug.transform_from_name("RandomCrop", padding=3) == aug.RandomCrop(3)
    assert {name for name in cifarfast.augment.__all__ if name in TRANSFORMS} == set(TRANSFORMS)
    for name in TRANSFORMS:
        assert aug.transform_from_name(name, **({"side": 40} if name == "Resize" else {})).name == name


def test_equal_settings_are_equal_and_different_kinds_are_not():
    assert aug.CutMix(1.0) == aug.CutMix(1.0)
    assert aug.CutMix(1.0) != aug.Mixup(1.0)
    assert aug.RandomBrightness(0.1) != aug.RandomContrast(0.1)


def test_views():
    assert [view.transforms for view in aug.views("mirror")] == [(), (aug.Mirror(),)]
    assert aug.views("mirror_shift", shift=2)[-1].transforms == (aug.Shift(2, 2, "reflect"), aug.Mirror())
    for kind, count in (("none", 1), ("mirror", 2), ("mirror_shift", 6), ("ten_crop", 10)):
        assert len(aug.views(kind)) == count
        assert sum(view.weight for view in aug.views(kind)) == pytest.approx(1.0)


def test_shifted_views_show_the_neighbouring_pixels(cifar):
    plain, moved = (
        Augment(view, [0.5] * 3, [0.2] * 3)(*cifar, torch.arange(5), 0).images
        for view in ([], [aug.Shift(1, -2, "edge")])
    )
    assert torch.equal(moved[:, :, :-1, 2:], plain[:, :, 1:, :-2])
    assert torch.equal(moved[:, :, -1], moved[:, :, -2])


def test_preview(cifar, tmp_path: Path):
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    augment = Augment(aug.build(crop_padding=4, flip="random", mixup_alpha=1.0), [0.5] * 3, [0.2] * 3)
    aug.save_preview(tmp_path / "grid.png", augment, *cifar, classes, rows=3, epochs=(0, 1), side=64)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (3 * 70 + 6, 3 * 94 + 30)
        colours = len(picture.getcolors(1 << 20) or [])
    assert colours > 500
    batch = augment(*cifar, torch.arange(3), 0)
    lines = caption(batch, 0, classes)
    assert len(lines) == 2
    assert sum(float(line.split()[0]) for line in lines) == pytest.approx(1.0, abs=0.011)
    plain = Augment([], [0.5] * 3, [0.2] * 3)(*cifar, torch.arange(3), 0)
    assert torch.equal(to_pixels(plain.images, [0.5] * 3, [0.2] * 3), cifar[0][:3])
    assert caption(plain, 0, classes) == ["frog"]


def test_preview_of_grey_images_and_an_augmented_copy(tmp_path: Path):
    images = torch.randint(0, 256, (4, 28, 28, 1)).to(torch.uint8)
    augment = Augment(aug.build(rotation=15.0), [0.2], [0.3], augmented_copy=True)
    aug.save_preview(tmp_path / "grid.png", augment, images, torch.arange(4), list("abcd"))
    assert (tmp_path / "grid.png").stat().st_size > 1000
