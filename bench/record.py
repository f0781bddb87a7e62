"""Where the figures of a benchmark session go: ``bench/results/<device>/<suite>.json``."""

import json
import os
from pathlib import Path
from typing import Any

from cifarfast.kernels.tuning.tables import slug
from cifarfast.runs.environment import collect_environment
from cifarfast.runs.storage import write_atomic

FOLDER = Path(__file__).parent / "results"
Row = dict[str, Any]
Document = dict[str, Any]


class Recorder:
    """Collects the rows of a session by suite and writes them.

    Args:
        folder: that holds a folder for each device.
        keep_earlier: rows of a file that is there already stay, under ``earlier``, unless the session has measured a
            row of the same name.
    """

    def __init__(self, folder: Path = FOLDER, *, keep_earlier: bool = False) -> None:
        self.folder, self._keep_earlier = folder, keep_earlier
        self.rows: dict[str, list[Row]] = {}
        self._environment: dict[str, Any] | None = None

    def add(self, suite: str, row: Row) -> None:
        """Keep a row; one of the same name in the same suite is replaced."""
        rows = self.rows.setdefault(suite, [])
        rows[:] = [other for other in rows if other["name"] != row["name"]] + [row]

    def write(self, suite: str) -> Path:
        """Write a suite's rows with what they were measured on; the file is whole at any time."""
        environment = self._environment = self._environment or session_environment()
        path = self.folder / device_folder(environment) / f"{suite}.json"
        document: Document = {"environment": environment, "rows": self.rows[suite]}
        if self._keep_earlier and path.is_file():
            document = merge(document, json.loads(path.read_text(encoding="utf-8")))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(document, indent=1) + "\n")
        return path


def session_environment() -> dict[str, Any]:
    """What ``collect_environment`` finds, without paths of this machine.

    ``$CIFARFAST_COMMIT`` names the commit where the files were copied without their history.
    """
    environment = collect_environment()
    environment["argv"] = [Path(argument).name for argument in environment["argv"]]
    environment["commit"] = environment["commit"] or os.environ.get("CIFARFAST_COMMIT")
    return environment


def device_folder(environment: dict[str, Any]) -> str:
    """The name of a device's folder of results."""
    return slug(environment["gpu"]["name"]) if environment["gpu"] else "cpu"


def merge(new: Document, old: Document) -> Document:
    """``new`` with the rows of ``old`` that it does not have under ``earlier``, beside where they were measured."""
    names = {row["name"] for row in new["rows"]}
    earlier = []
    for document in sessions(old):
        # a row of this very session that an earlier write of it put there is in `new` already
        if rows := [row for row in document["rows"] if row["name"] not in names]:
            earlier.append({"environment": document["environment"], "rows": rows})
            names |= {row["name"] for row in rows}
    return {**new, "earlier": earlier} if earlier else new


def sessions(document: Document) -> list[Document]:
    """The sessions whose rows a file holds, the newest first."""
    newest = {key: value for key, value in document.items() if key != "earlier"}
    return [newest, *document.get("earlier", [])]
