"""Checkpoints: tensors as safetensors, the rest as JSON, nothing as a pickle.

A checkpoint is a folder ``step-<moment>`` of ``model.safetensors``, ``optimizer.safetensors``, with an EMA
``ema.safetensors``, ``state.json``, and ``manifest.json`` with every file's SHA-256. It is written under another name,
fsynced and renamed, so that a process killed at any moment leaves whole checkpoints only; the two newest are kept.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..errors import UserError
from .reading import check, damage, parse_json, read_file
from .schemas import Manifest, State
from .storage import disk_errors, fsync_folder, remove_tree, temporary_name, write_new

FORMAT = "cifarfast.checkpoint"
VERSION = 1
KEEP = 2
TENSOR_KEYS = ("model", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to continue.

    ``tensors`` maps a file's stem ("model", "optimizer", "ema") to its named tensors; ``state`` is plain JSON:
    settings, progress, history, schedule, preprocessing, as ``schemas.State``.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(folder: Path, moment: str, checkpoint: Checkpoint) -> Path:
    """Write ``folder/step-<moment>`` unless it is there, and remove all but the two newest.

    ``moment`` sorts by time: the steps done, as nine digits, with ``-evaluated`` when the epoch they end is evaluated.

    Raises:
        UserError: the disk is full, read-only, …; what was there before is untouched.
    """
    final = folder / f"step-{moment}"
    with disk_errors(f"save a checkpoint in {folder} (the ones before it are kept)"):
        if folder.is_symlink():
            raise UserError(f"{folder} is a link: a run keeps its checkpoints in a folder of its own")
        folder.mkdir(exist_ok=True)
        for leftover in [*folder.glob(".new-*"), *folder.glob(".step-*")]:  # of a process killed in here
            remove_tree(leftover)
        if final.exists():  # the moment the run was resumed from
            return final
        temporary = temporary_name(folder / f"new-{final.name}")
        try:
            _write_files(temporary, checkpoint)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(folder)
        for old in checkpoint_folders(folder)[KEEP:]:
            hidden = old.with_name(f".{old.name}")  # a kill in between leaves a hidden folder, never half a checkpoint
            old.rename(hidden)
            remove_tree(hidden)
    return final


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    digests = {}
    for stem, tensors in checkpoint.tensors.items():
        # copies: safetensors takes no tensors that share memory, as tied weights do
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        digests[f"{stem}.safetensors"] = _write(folder / f"{stem}.safetensors", save_tensors(copies))
    digests["state.json"] = _write(folder / "state.json", json.dumps(checkpoint.state).encode())
    manifest = {"format": FORMAT, "version": VERSION, "sha256": digests}
    _write(folder / "manifest.json", json.dumps(manifest, indent=2).encode())
    fsync_folder(folder)


def _write(path: Path, data: bytes) -> str:
    write_new(path, data)
    return hashlib.sha256(data).hexdigest()


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first, whether or not they verify."""
    return sorted(folder.glob("step-*"), reverse=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder, verifying every checksum.

    Raises:
        UserError: it is not a checkpoint of ours, of another version, or damaged; says which file.
    """
    manifest_path, state_path = path / "manifest.json", path / "state.json"
    try:
        manifest = parse_json(read_file(manifest_path), manifest_path)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"{path} is not a cifarfast checkpoint")
        if manifest.get("version") != VERSION:
            raise UserError(f"{path} has checkpoint version {manifest.get('version')!r}; this program reads {VERSION}")
        digests = check(Manifest, manifest, manifest_path).sha256
        contents = {name: read_file(path / name) for name in digests}
    except FileNotFoundError as error:
        raise UserError(f"{path} is not a whole checkpoint: {Path(error.filename).name} is missing") from None
    for name, digest in digests.items():
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise UserError(f"{path} is damaged: the checksum of {name} does not match")
    missing = [name for name in ("state.json", *(f"{key}.safetensors" for key in TENSOR_KEYS)) if name not in contents]
    if missing:
        raise UserError(f"{path} is not a cifarfast checkpoint: it lacks {', '.join(missing)}")
    state = parse_json(contents.pop("state.json"), state_path, infinity=True)
    check(State, state, state_path)
    tensors = {}
    for name, data in contents.items():
        with damage(path / name):
            tensors[name.removesuffix(".safetensors")] = load_tensors(data)
    return Checkpoint(tensors, state)


def check_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that tensors are those that are wanted, as loading them would convert any number type.

    Raises:
        KeyError: the names differ.
        RuntimeError: a tensor has another shape or type.
    """
    if given.keys() != wanted.keys():
        raise KeyError(f"{sorted(given.keys() ^ wanted.keys())[0]} is there or here only")
    for name, tensor in wanted.items():
        other = given[name]
        if (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
            raise RuntimeError(
                f"{name} is {list(other.shape)} of {other.dtype}, here {list(tensor.shape)} of {tensor.dtype}"
            )


def set_aside_newer(folder: Path, path: Path) -> None:
    """Rename the checkpoints newer than ``path``, which do not verify, to ``damaged-…``: they count no more."""
    with disk_errors(f"set damaged checkpoints in {folder} aside"):
        for other in checkpoint_folders(folder):
            if other.name > path.name:
                target, number = other.with_name(f"damaged-{other.name}"), 1
                while target.exists():
                    number += 1
                    target = other.with_name(f"damaged-{number}-{other.name}")
                other.rename(target)


def newest_checkpoint(folder: Path) -> tuple[Path, Checkpoint, list[str]] | None:
    """The newest checkpoint in ``folder`` that verifies, with a line about each newer one that does not.

    Returns None where there is no checkpoint at all.

    Raises:
        UserError: there are checkpoints, but none verifies.
    """
    problems: list[str] = []
    for path in checkpoint_folders(folder):
        try:
            return path, load_checkpoint(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"no checkpoint in {folder} can be used (nothing was changed): {'; '.join(problems)}")
    return None
