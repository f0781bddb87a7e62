"""From a recipe's plain settings to a list of transforms, and transforms by name."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from cifarfast.errors import UserError, nearest

from . import checks, geometry, mixing, pixels, policies
from .geometry import AlternatingFlip, RandomAffine, RandomCrop, RandomFlip, RandomRotation
from .mixing import CutMix, Cutout, Mixup, Resize
from .pixels import RandomBrightness, RandomColor, RandomContrast, RandomSharpness
from .policies import AutoAugment, RandAugment, TrivialAugment
from .transform import Transform

_MODULES = (geometry, pixels, policies, mixing)
TRANSFORMS: dict[str, type[Transform]] = {
    name: value
    for module in _MODULES
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Transform) and value is not Transform and name[0] != "_"
}


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """A recipe's augmentation settings; the defaults do nothing.

    They act in this order: crop, flip, affine, jitter, policy, resize, cutout, mixing.
    """

    crop_padding: int = 0
    """Pixels added on every side before a random crop of the image's size; 0 = no crop."""
    crop_mode: Literal["zero", "reflect", "edge"] = "zero"
    """What the crop's padding holds."""
    flip: Literal["none", "random", "alternating"] = "none"
    """Horizontal flip: none, random (half of the images), alternating (every second epoch mirrors the one before)."""
    rotation: float = 0.0
    """Largest rotation either way, in degrees."""
    translate: float = 0.0
    """Largest shift either way, as a fraction of the side."""
    zoom: float = 0.0
    """The zoom factor is uniform in 1 ± zoom."""
    shear: float = 0.0
    """Largest shear angle along x either way, in degrees."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """Of rotation, zoom, shear and the policy's geometric operations."""
    brightness: float = 0.0
    """The brightness factor is uniform in 1 ± this; 0 = off."""
    contrast: float = 0.0
    """The contrast factor is uniform in 1 ± this; 0 = off."""
    color: float = 0.0
    """The saturation factor is uniform in 1 ± this; 0 = off."""
    sharpness: float = 0.0
    """The sharpness factor is uniform in 1 ± this; 0 = off."""
    auto_augment: Literal["none", "cifar10", "rand", "trivial"] = "none"
    """Policy: AutoAugment's for CIFAR-10, RandAugment or TrivialAugment."""
    rand_ops: int = 2
    """RandAugment's number of operations."""
    rand_magnitude: int = 9
    """RandAugment's magnitude, 0 to 30."""
    resize: int = 0
    """Side of the enlarged square image in pixels; 0 = as it is."""
    cutout: int = 0
    """Side of Cutout's squares in pixels; 0 = off."""
    cutout_count: int = 1
    """Cutout's squares an image."""
    cutmix_alpha: float = 0.0
    """Of CutMix's Beta distribution; 0 = off. With Mixup too, a fair coin decides between the two."""
    mixup_alpha: float = 0.0
    """Of Mixup's Beta distribution; 0 = off."""
    mix_probability: float = 1.0
    """Probability that an image is mixed."""
    mix_per: Literal["sample", "batch"] = "sample"
    """Whether CutMix and Mixup draw weight and box for each sample or once a batch."""
    mix_start: float = 0.0
    """Fraction of the training after which mixing begins."""
    augmented_copy: bool = False
    """Train on every image as it is and on an augmented copy of it."""

    def __post_init__(self) -> None:
        owner = "augmentation"
        checks.choice(owner, "flip", self.flip, ("none", "random", "alternating"))
        checks.choice(owner, "auto_augment", self.auto_augment, ("none", "cifar10", "rand", "trivial"))
        checks.choice(owner, "crop_mode", self.crop_mode, geometry.PAD_MODES)
        checks.choice(owner, "interpolation", self.interpolation, geometry.INTERPOLATIONS)
        checks.choice(owner, "mix_per", self.mix_per, ("sample", "batch"))
        for name, largest in (("rotation", 360.0), ("translate", 1.0), ("zoom", 0.9), ("shear", 80.0)):
            checks.number(owner, name, getattr(self, name), 0.0, largest)
        for name in ("mix_start", "mix_probability"):
            checks.probability(owner, getattr(self, name), name)
        for name in ("crop_padding", "resize", "cutout"):
            checks.integer(owner, name, getattr(self, name), 0)
        for name in ("brightness", "contrast", "color", "sharpness"):
            checks.number(owner, name, getattr(self, name), 0.0)
        for name in ("cutmix_alpha", "mixup_alpha"):
            checks.number(owner, f"{name} (0 switches it off)", getattr(self, name), 0.0)
        self.transforms(epochs=1)  # the transforms check the rest

    def transforms(self, epochs: int) -> list[Transform]:
        """The list for ``Augment``; ``epochs`` is the length of the training that ``mix_start`` is a fraction of."""
        return [*self._geometry(), *self._pixels(), *self._finish(epochs)]

    def _geometry(self) -> list[Transform]:
        result: list[Transform] = []
        if self.crop_padding:
            result.append(RandomCrop(self.crop_padding, self.crop_mode))
        if self.flip != "none":
            result.append(RandomFlip() if self.flip == "random" else AlternatingFlip())
        if self.translate or self.zoom or self.shear:
            affine = RandomAffine(
                degrees=(-self.rotation, self.rotation),
                translate=(self.translate, self.translate),
                scale=(1.0 - self.zoom, 1.0 + self.zoom),
                shear_x=(-self.shear, self.shear),
                interpolation=self.interpolation,
            )
            result.append(affine)
        elif self.rotation:
            result.append(RandomRotation(self.rotation, self.interpolation))
        return result

    def _pixels(self) -> list[Transform]:
        jitter = {
            RandomBrightness: self.brightness,
            RandomContrast: self.contrast,
            RandomColor: self.color,
            RandomSharpness: self.sharpness,
        }
        result: list[Transform] = [kind(amount) for kind, amount in jitter.items() if amount]
        if self.auto_augment == "cifar10":
            result.append(AutoAugment(self.interpolation))
        elif self.auto_augment == "rand":
            result.append(RandAugment(self.rand_ops, self.rand_magnitude, interpolation=self.interpolation))
        elif self.auto_augment == "trivial":
            result.append(TrivialAugment(interpolation=self.interpolation))
        return result

    def _finish(self, epochs: int) -> list[Transform]:
        result: list[Transform] = []
        if self.resize:
            result.append(Resize(side=self.resize))
        if self.cutout:
            result.append(Cutout(self.cutout, self.cutout_count))
        start = math.ceil(round(self.mix_start * epochs, 9))
        for kind, alpha in ((CutMix, self.cutmix_alpha), (Mixup, self.mixup_alpha)):
            if alpha:
                result.append(kind(alpha, self.mix_probability, self.mix_per, start))
        return result


SETTINGS = tuple(field.name for field in fields(AugmentSettings))


def build(*, epochs: int = 1, **settings: Any) -> list[Transform]:
    """Return the transforms of plain settings, the fields of ``AugmentSettings``.

    Args:
        epochs: length of the training, which ``mix_start`` is a fraction of.

    Raises:
        UserError: for an unknown setting, with the nearest known one, or a value that is not allowed.
    """
    for name in settings:
        if name not in SETTINGS:
            raise UserError(f"unknown augmentation setting {name!r}{nearest(name, SETTINGS)}")
    return AugmentSettings(**settings).transforms(epochs)


def transform_from_name(name: str, **settings: Any) -> Transform:
    """Return the transform of a class name, ``transform_from_name("RandomCrop", padding=4)``.

    Raises:
        UserError: for an unknown name, with the nearest known one, or settings it does not take.
    """
    kind = TRANSFORMS.get(name)
    if kind is None:
        hint = nearest(name, TRANSFORMS)
        raise UserError(f"unknown transform {name!r}{hint}; known: {', '.join(sorted(TRANSFORMS))}")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise UserError(f"{name} has no setting {setting!r}{nearest(setting, known)}; it takes {', '.join(known)}")
    return kind(**settings)
