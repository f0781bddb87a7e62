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
import csv
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..recipes.recipe import Recipe, parse_recipe, to_toml
from ..runtime.files import user_path
from .storage import disk_errors, folder_lock, write_atomic

Row = dict[str, Any]


class RunFolder:
    """Read and write one run folder. Every file is replaced atomically."""

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
            (self.path / ".lock").touch()
        with folder_lock(self.path):
            self.check(resume=resume)
            yield

    def _write(self, name: str, data: bytes | str) -> None:
        with disk_errors(f"write {self.path / name}"):
            write_atomic(self.path / name, data)

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            if (self.path / "manifest.json").exists():
                raise UserError(f"{self.path} is a checkpoint: name the run folder that it lies in") from None
            raise UserError(f"{self.path} has no {name}: not a run folder, or the run did not get that far") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.path / name}: {error}") from None

    def write_config(self, recipe: Recipe) -> None:
        """Write ``config.toml``."""
        self._write("config.toml", to_toml(recipe))

    def read_config(self) -> Recipe:
        """Read ``config.toml``."""
        return parse_recipe(self._read("config.toml"), where=str(self.path / "config.toml"), name="custom")[0]

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Write ``environment.json``."""
        self._write("environment.json", json.dumps(environment, indent=2) + "\n")

    def read_environment(self) -> dict[str, Any]:
        """Read ``environment.json``."""
        return self._read_json("environment.json")

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``."""
        self._write("result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")

    def read_result(self) -> dict[str, Any]:
        """Read ``result.json``."""
        return self._read_json("result.json")

    def write_metrics(self, rows: Sequence[Row]) -> None:
        """Write ``metrics.csv``."""
        self._write("metrics.csv", _to_csv(rows))

    def read_metrics(self) -> list[dict[str, float]]:
        """Read ``metrics.csv``; an epoch that was not evaluated lacks the columns of the evaluation."""
        return self._read_table("metrics.csv")

    def write_timing(self, rows: Sequence[Row]) -> None:
        """Write ``timing.csv``."""
        self._write("timing.csv", _to_csv(rows))

    def read_timing(self) -> list[dict[str, float]]:
        """Read ``timing.csv``."""
        return self._read_table("timing.csv")

    def write_predictions(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Write ``predictions.npz``: test logits float32 [N, C] and labels int64 [N], in the test set's order."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, logits=logits, labels=labels)
        self._write("predictions.npz", buffer.getvalue())

    def read_predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Read ``predictions.npz`` as (logits, labels)."""
        path = self.path / "predictions.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays["logits"], arrays["labels"]
        except FileNotFoundError:
            raise UserError(f"{self.path} has no predictions.npz: the run did not finish") from None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {path}: {error}") from None

    def _read_table(self, name: str) -> list[dict[str, float]]:
        rows = csv.DictReader(io.StringIO(self._read(name)))
        return [{key: float(value) for key, value in row.items() if value != ""} for row in rows]

    def _read_json(self, name: str) -> dict[str, Any]:
        text = self._read(name)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path / name} is not JSON: {error}") from None


def _to_csv(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


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
