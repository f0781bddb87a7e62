"""Augmentation on the device: a batch of indices in, a batch of augmented, normalised images and mixed labels out."""

from .augmenter import Augment, Batch
from .transforms import AlternatingFlip, Mirror, RandomCrop, RandomFlip, Shift, Transform

__all__ = ["AlternatingFlip", "Augment", "Batch", "Mirror", "RandomCrop", "RandomFlip", "Shift", "Transform"]
