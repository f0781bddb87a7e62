"""Tile sizes per GPU model, chosen ahead of time and committed: a training run never tunes by the clock.

``default.json`` holds every op's tiles; ``<device name slug>.json`` (``nvidia-h200.json``) overrides whole ops for one
GPU model; ``python -m cifarfast.kernels.tune`` measures and writes it. Each op has a list of rows
``{"up_to": size, …tile…}`` in ascending order; the first row whose ``up_to`` reaches the size at hand is used, so that
the choice, and with it every summation order, depends on nothing else. ``about`` says what a table was measured on.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

Tile = dict[str, int]

_FOLDER = Path(__file__).parent
ABOUT = "about"
# the GPU model that stands for an architecture where nothing runs: in the compile report
MODELS = {"sm_80": "NVIDIA A100", "sm_90": "NVIDIA H200", "sm_100": "NVIDIA B200"}

_overrides: dict[str, Tile] = {}
_assumed: list[str] = []


def slug(name: str) -> str:
    """A device's name as a file or folder name: ``NVIDIA H200`` → ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def tile(op: str, size: int, device: torch.device) -> Tile:
    """The tile of ``op`` for a workload of this size on this device.

    Raises:
        KeyError: the op has no entry.
        ValueError: the size is above the op's last row.
    """
    if op in _overrides:
        return _overrides[op]
    return _chosen(op, size, device, _assumed[-1] if _assumed else None)


@cache
def _chosen(op: str, size: int, device: torch.device, assumed: str | None) -> Tile:
    rows = load(assumed or (torch.cuda.get_device_name(device) if device.type == "cuda" else "default"))[op]
    for row in rows:
        if size <= row["up_to"]:
            return {name: value for name, value in row.items() if name != "up_to"}
    raise ValueError(f"{op}: no tile for size {size}; the largest is {rows[-1]['up_to']}")


@cache
def load(device_name: str) -> dict[str, list[Tile]]:
    """Every op's rows for a GPU model: the default ones, replaced op by op where the model has its own."""
    tables: dict[str, list[Tile]] = json.loads((_FOLDER / "default.json").read_text(encoding="utf-8"))
    own = table_path(device_name)
    if own.is_file():
        tables.update(json.loads(own.read_text(encoding="utf-8")))
    tables.pop(ABOUT, None)
    for op, rows in tables.items():
        sizes = [row["up_to"] for row in rows]
        assert sizes == sorted(set(sizes)), f"{op}: up_to must ascend, got {sizes}"
    return tables


def table_path(device_name: str) -> Path:
    """Where the table of a GPU model is, or would be."""
    return _FOLDER / f"{slug(device_name)}.json"


def clear() -> None:
    """Forget what was read: tables are read from their files again."""
    load.cache_clear()
    _chosen.cache_clear()


def sizes(op: str, largest: int) -> list[int]:
    """A size for each row of the op's table, at most ``largest``; of the assumed model's table if there is one."""
    rows = load(_assumed[-1] if _assumed else "default")[op]
    return sorted({min(row["up_to"], largest) for row in rows})


@contextmanager
def override(tiles: Mapping[str, Tile]) -> Iterator[None]:
    """Use these tiles for these ops, whatever the size and the table: to measure or compile candidates."""
    before = dict(_overrides)
    _overrides.update(tiles)
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


@contextmanager
def assume(device_name: str) -> Iterator[None]:
    """Use the table of a GPU model whatever the device is: to compile its tiles elsewhere."""
    _assumed.append(device_name)
    try:
        yield
    finally:
        _assumed.pop()
