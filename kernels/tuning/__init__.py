"""Tile sizes per GPU model, chosen ahead of time and committed: a training run never tunes by the clock.

``default.json`` holds every op's tiles; ``<device name slug>.json`` (``nvidia-h200.json``) overrides whole ops for one
GPU model. Each op has a list of rows ``{"up_to": size, …tile…}`` in ascending order; the first row whose ``up_to``
reaches the size at hand is used, so that the choice, and with it every summation order, depends on nothing else.
"""

import json
import re
from functools import cache
from pathlib import Path

import torch

Tile = dict[str, int]

_FOLDER = Path(__file__).parent


def slug(name: str) -> str:
    """A device's name as a file or folder name: ``NVIDIA H200`` → ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@cache
def tile(op: str, size: int, device: torch.device) -> Tile:
    """The tile of ``op`` for a problem of this size on this device.

    Raises:
        KeyError: the op has no entry.
        ValueError: the size is above the op's last row.
    """
    rows = load(torch.cuda.get_device_name(device) if device.type == "cuda" else "default")[op]
    for row in rows:
        if size <= row["up_to"]:
            return {name: value for name, value in row.items() if name != "up_to"}
    raise ValueError(f"{op}: no tile for size {size}; the largest is {rows[-1]['up_to']}")


@cache
def load(device_name: str) -> dict[str, list[Tile]]:
    """Every op's rows for a GPU model: the default ones, replaced op by op where the model has its own."""
    tables: dict[str, list[Tile]] = json.loads((_FOLDER / "default.json").read_text(encoding="utf-8"))
    own = _FOLDER / f"{slug(device_name)}.json"
    if own.is_file():
        tables.update(json.loads(own.read_text(encoding="utf-8")))
    for op, rows in tables.items():
        sizes = [row["up_to"] for row in rows]
        assert sizes == sorted(set(sizes)), f"{op}: up_to must ascend, got {sizes}"
    return tables
