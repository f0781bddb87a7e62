"""Data sets as uint8 images and labels, whole and on one device: `load_dataset`, `list_datasets`."""

from .base import Dataset, Splits
from .registry import list_datasets, load_dataset

__all__ = ["Dataset", "Splits", "list_datasets", "load_dataset"]
