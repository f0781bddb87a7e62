"""Data sets as uint8 images and labels, whole and on one device: `load_dataset`, `list_datasets`, `register`."""

from .base import Dataset, Splits, hold_out_test, make_dataset
from .download import data_folder
from .image_files import Background
from .registry import Source, class_names, list_datasets, load_dataset, register

__all__ = [
    "Background",
    "Dataset",
    "Source",
    "Splits",
    "class_names",
    "data_folder",
    "hold_out_test",
    "list_datasets",
    "load_dataset",
    "make_dataset",
    "register",
]
