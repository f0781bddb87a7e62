"""The run folder: everything a run leaves behind, and the only thing reports and evaluations read.

::

    config.toml        every setting, resolved          environment.json   versions, device, commit, data fingerprint
    metrics.csv        one row an epoch                 timing.csv         seconds and images/s an epoch
    result.json        the outcome                      predictions.npz    test logits and labels
    checkpoints/       the two newest (see checkpoint.py)

``metrics.csv`` holds only what the settings determine, so a run that was killed and resumed has the same file, byte for
byte, as one that was not; what the clock determines stands in ``timing.csv``.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..recipes.recipe import Recipe, parse_recipe, to_toml
from ..runtime.files import user_path
from .predictions import accuracy_bounds, pack_predictions, unpack_predictions
from .reading import check, damage, parse_json, read_file
from .schemas import Environment, MetricsRow, Result, TimingRow
from .storage import disk_errors, folder_lock, remove_temporaries, write_atomic
from .tables import Row, from_csv, to_csv

CHECKSUMMED = ("predictions.npz", "metrics.csv", "timing.csv", "meta_learner.safetensors")
"""Files whose SHA-256 is kept in ``result.json``, beside its own."""
_NOT_A_RUN = "not a run folder, or the run did not get that far"


class RunFolder:
    """Read and write one run folder. Every file is replaced atomically, and checked when it is read."""

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self.checkpoints = self.path / "checkpoints"

    @property
    def name(self) -> str:
        """What tables call the run: its folder's name, after the recipe's where ``reproduce`` named it by its seed."""
        path = self.path.resolve()
        return f"{path.parent.name}/{path.name}" if path.name.startswith("seed-") else path.name

    @property
    def exists(self) -> bool:
        """Whether a run was started in this folder."""
        with disk_errors(f"read {self.path}"):
            return (self.path / "config.toml").exists()

    def check(self, *, resume: bool) -> None:
        """Raise a UserError unless this folder is free, or holds a run and ``resume`` is True."""
        with disk_errors(f"read {self.path}"):
            if not self.path.exists():
                return
            # hidden files are the lock, and what a process left that was killed before it had written its settings
            others = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        if others and not self.exists:
            raise UserError(f"{self.path} is not empty and not a run folder (no config.toml): choose another --out")
        if others and not resume:
            raise UserError(f"{self.path} holds a run: add --resume to continue it, or choose another --out")

    @contextlib.contextmanager
    def writing(self, *, resume: bool) -> Iterator[None]:
        """Make the folder and keep other processes out of it.

        Raises:
            UserError: as ``check`` does, or the folder cannot be written or is in use.
        """
        with disk_errors(f"write to {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
        with folder_lock(self.path):
            self.check(resume=resume)
            with disk_errors(f"write to {self.path}"):
                remove_temporaries(self.path)
            yield

    def write(self, name: str, data: bytes | str) -> None:
        """Write the file ``name``.

        Raises:
            UserError: the disk is full, read-only, …; what was there before is untouched.
        """
        with disk_errors(f"write {self.path / name}"):
            write_atomic(self.path / name, data)

    def read(self, name: str) -> bytes:
        """The bytes of the file ``name``.

        Raises:
            UserError: it is missing, too large, no regular file, or cannot be read.
        """
        try:
            return read_file(self.path / name)
        except FileNotFoundError:
            if (self.path / "manifest.json").exists():
                raise UserError(f"{self.path} is a checkpoint: name the run folder that it lies in") from None
            why = "the run did not finish" if name == "predictions.npz" else _NOT_A_RUN
            raise UserError(f"{self.path} has no {name}: {why}") from None

    def read_text(self, name: str) -> str:
        """The text of the file ``name``, in UTF-8.

        Raises:
            UserError: as ``read``, or it is not UTF-8.
        """
        data = self.read(name)
        with damage(self.path / name):
            return data.decode()

    def write_config(self, recipe: Recipe) -> None:
        """Write ``config.toml``."""
        self.write("config.toml", to_toml(recipe))

    def read_config(self) -> Recipe:
        """Read ``config.toml``."""
        path = self.path / "config.toml"
        with damage(path):
            return parse_recipe(self.read_text("config.toml"), where=str(path), name="custom")[0]

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Write ``environment.json``."""
        self.write("environment.json", json.dumps(environment, indent=2) + "\n")

    def read_environment(self) -> dict[str, Any]:
        """Read ``environment.json``, checked as ``schemas.Environment``."""
        return self._read_json("environment.json", Environment)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``, with the checksums of itself and of what the run wrote before it."""
        result = {key: value for key, value in result.items() if key != "checksums"}
        there = [name for name in CHECKSUMMED if (self.path / name).exists()]
        digests = {name: hashlib.sha256(self.read(name)).hexdigest() for name in there}
        result["checksums"] = {"result.json": _own_digest(result), **digests}
        self.write("result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")

    def read_result(self) -> dict[str, Any]:
        """Read ``result.json``, checked as ``schemas.Result`` and against the other files.

        Raises:
            UserError: it or a file with a checksum in it was changed, or its test accuracy is not that of
                ``predictions.npz``.
        """
        result = self._read_json("result.json", Result)
        # what is missing says nothing false, but for the predictions
        for name in (name for name in CHECKSUMMED if name != "predictions.npz" and (self.path / name).exists()):
            self._read_as_written(name, result)
        path = self.path / "predictions.npz"
        low, high = accuracy_bounds(*unpack_predictions(self._read_as_written("predictions.npz", result), path))
        if not low - 1e-6 <= result["test_accuracy_percent"] <= high + 1e-6:
            raise UserError(
                f"{self.path / 'result.json'} says {result['test_accuracy_percent']:.4f} % of the test set are right, "
                f"predictions.npz {high:.4f} %: one of them was changed"
            )
        return result

    def write_metrics(self, rows: Sequence[Row]) -> None:
        """Write ``metrics.csv``."""
        self.write("metrics.csv", to_csv(rows))

    def read_metrics(self) -> list[dict[str, float]]:
        """Read ``metrics.csv``; an epoch that was not evaluated lacks the columns of the evaluation."""
        return from_csv(self._read_as_written("metrics.csv"), self.path / "metrics.csv", MetricsRow)

    def write_timing(self, rows: Sequence[Row]) -> None:
        """Write ``timing.csv``."""
        self.write("timing.csv", to_csv(rows))

    def read_timing(self) -> list[dict[str, float]]:
        """Read ``timing.csv``."""
        return from_csv(self._read_as_written("timing.csv"), self.path / "timing.csv", TimingRow)

    def write_predictions(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Write ``predictions.npz``: test logits float32 [N, C] and labels int64 [N], in the test set's order."""
        self.write("predictions.npz", pack_predictions(logits, labels))

    def read_predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Read ``predictions.npz`` as (logits float32 [N, C], labels int64 [N]), checked."""
        return unpack_predictions(self._read_as_written("predictions.npz"), self.path / "predictions.npz")

    def read_finished(self) -> tuple[Recipe, dict[str, Any]]:
        """The settings and the result of a finished run that is no ensemble.

        Raises:
            UserError: as ``read_config`` and ``read_result``, or the two are not of one run.
        """
        recipe, result = self.read_config(), self.read_result()
        ours = (recipe.arch, recipe.seed, recipe.dataset.partition(":")[0], None)
        theirs = (result["arch"], result["seed"], result["dataset"].partition(":")[0], result.get("ensemble"))
        if ours != theirs:
            raise UserError(f"{self.path}: config.toml and result.json are not of one run: {ours[:3]}, {theirs[:3]}")
        return recipe, result

    def _read_as_written(self, name: str, result: dict[str, Any] | None = None) -> bytes:
        """The bytes of a file that ``result.json``, where there is one, may have the checksum of."""
        data = self.read(name)
        if result is None and (self.path / "result.json").exists():
            result = self._read_json("result.json", Result)
        digest = (result or {}).get("checksums", {}).get(name)
        if digest not in (None, hashlib.sha256(data).hexdigest()):
            raise UserError(f"{self.path / name} was changed after the run: its checksum does not match")
        return data

    def _read_json(self, name: str, model: type[Result] | type[Environment]) -> dict[str, Any]:
        path = self.path / name
        values = parse_json(self.read(name), path)
        check(model, values, path)
        if values.get("checksums", {}).get(name, _own_digest(values)) != _own_digest(values):
            raise UserError(f"{path} was changed after the run: its checksum does not match")
        return values


def _own_digest(result: dict[str, Any]) -> str:
    """SHA-256 of a result without its checksums, however the file is laid out."""
    values = {key: value for key, value in result.items() if key != "checksums"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def free_run_folder(root: Path, recipe: Recipe) -> Path:
    """A path under ``root`` that does not exist yet: ``<recipe or model>-<data set>-seed<seed>``, numbered if taken."""
    what = recipe.name if recipe.name != "custom" else recipe.arch
    dataset = recipe.dataset.partition(":")[0]
    stem = f"{what}-{dataset}-seed{recipe.seed}".replace(":", "_").replace("/", "_")
    candidate, number = root / stem, 1
    while candidate.exists():
        number += 1
        candidate = root / f"{stem}-{number}"
    return candidate
