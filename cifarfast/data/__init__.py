"""Data sets as uint8 images and labels, whole and on one device: `load_dataset`, `list_datasets`."""

from .base import Dataset, Splits
from .download import data_folder
from .registry import list_datasets, load_dataset

__all__ = ["Dataset", "Splits", "data_folder", "list_datasets", "load_dataset"]
