"""Augmentation on the device: a batch of indices in, a batch of augmented, normalised images and mixed labels out."""

from .augmenter import Augment, Batch
from .factory import AugmentSettings, build, transform_from_name
from .geometry import (
    AlternatingFlip,
    Mirror,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomShear,
    RandomTranslate,
    RandomZoom,
    Shift,
)
from .mixing import CutMix, Cutout, Mixup, Resize
from .pixels import (
    RandomAutoContrast,
    RandomBrightness,
    RandomColor,
    RandomContrast,
    RandomEqualize,
    RandomInvert,
    RandomPosterize,
    RandomSharpness,
    RandomSolarize,
)
from .policies import AutoAugment, RandAugment, TrivialAugment
from .preview import save_preview
from .transform import Transform
from .views import View, views

__all__ = [
    "AlternatingFlip",
    "Augment",
    "AugmentSettings",
    "AutoAugment",
    "Batch",
    "CutMix",
    "Cutout",
    "Mirror",
    "Mixup",
    "RandAugment",
    "RandomAffine",
    "RandomAutoContrast",
    "RandomBrightness",
    "RandomColor",
    "RandomContrast",
    "RandomCrop",
    "RandomEqualize",
    "RandomFlip",
    "RandomInvert",
    "RandomPosterize",
    "RandomRotation",
    "RandomSharpness",
    "RandomShear",
    "RandomSolarize",
    "RandomTranslate",
    "RandomZoom",
    "Resize",
    "Shift",
    "Transform",
    "TrivialAugment",
    "View",
    "build",
    "save_preview",
    "transform_from_name",
    "views",
]
