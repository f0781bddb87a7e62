"""Which data sets have published files, so that others of the same name are worth a remark."""

from collections.abc import Mapping
from typing import Any

_NAMES, _FAMILIES = ("cifar10", "cifar100"), ("emnist_",)


def has_official_files(name: str) -> bool:
    """Whether somebody publishes the files of the data set that ``--dataset name`` names."""
    kind = name.partition(":")[0]
    return kind in _NAMES or kind.startswith(_FAMILIES)


def is_copy(result: Mapping[str, Any]) -> bool:
    """Whether a result is on files that are not the published ones, of a data set that has such."""
    return not result["official"] and has_official_files(str(result["dataset"]))


def data_name(result: Mapping[str, Any]) -> str:
    """The data set of a result, with a remark where its files are not the published ones."""
    return str(result["dataset"]) + (" (not the official files)" if is_copy(result) else "")
