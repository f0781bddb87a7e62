"""Checkpoints: tensors as safetensors, the rest as JSON, nothing as a pickle.

A checkpoint is a folder ``step-<moment>`` of ``model.safetensors``, ``optimizer.safetensors``, with an EMA
``ema.safetensors``, ``state.json``, and ``manifest.json`` with every file's SHA-256. It is written under another name,
fsynced and renamed, so that a process killed at any moment leaves whole checkpoints only; the two newest are kept.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..errors import UserError
from .storage import disk_errors, fsync_folder, write_durable

FORMAT = "cifarfast.checkpoint"
VERSION = 1
KEEP = 2
TENSOR_KEYS = ("model", "optimizer")
STATE_KEYS = (
    *("recipe", "progress", "running", "schedule", "scaler", "preprocessing"),
    *("classes", "image_size", "in_channels", "fingerprint"),
)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to continue.

    ``tensors`` maps a file's stem ("model", "optimizer", "ema") to its named tensors; ``state`` is plain JSON:
    settings, progress, history, schedule, preprocessing.
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
        folder.mkdir(exist_ok=True)
        for leftover in [*folder.glob(".new-*"), *folder.glob(".step-*")]:  # of a process killed in here
            shutil.rmtree(leftover)
        if final.exists():  # the moment the run was resumed from
            return final
        temporary = folder / f".new-{final.name}"
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
            shutil.rmtree(hidden)
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
    write_durable(path, data)
    return hashlib.sha256(data).hexdigest()


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first, whether or not they verify."""
    return sorted(folder.glob("step-*"), reverse=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder, verifying every checksum.

    Raises:
        UserError: it is not a checkpoint of ours, of another version, or damaged; says which file.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"{path} is not a cifarfast checkpoint")
        if manifest.get("version") != VERSION:
            raise UserError(f"{path} has checkpoint version {manifest.get('version')}; this program reads {VERSION}")
        digests = dict(manifest["sha256"])
        contents = {name: (path / Path(name).name).read_bytes() for name in digests}
    except FileNotFoundError as error:
        raise UserError(f"{path} is not a whole checkpoint: {Path(error.filename).name} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: manifest.json cannot be read") from None
    for name, digest in digests.items():
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise UserError(f"{path} is damaged: the checksum of {name} does not match")
    try:
        state = json.loads(contents.pop("state.json"))
        tensors = {name.removesuffix(".safetensors"): load_tensors(data) for name, data in contents.items()}
        missing = [key for key in STATE_KEYS if key not in state] + [key for key in TENSOR_KEYS if key not in tensors]
    except (KeyError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise UserError(f"{path} is not a cifarfast checkpoint: {error}") from None
    if missing or not isinstance(state, dict):
        raise UserError(f"{path} is not a cifarfast checkpoint: it lacks {', '.join(missing)}")
    return Checkpoint(tensors, state)


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
