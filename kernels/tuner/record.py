"""The file of measurements: what a run has found so far, to go on from."""

import json
import os
from pathlib import Path
from typing import Any

Result = float | str  # seconds, or what went wrong


class Measurements:
    """Seconds of every candidate at every workload, kept in a file that is whole at any time.

    Args:
        path: of the file; read if it exists.
        about: what is measured on: one file is about one GPU and one set of versions.

    Raises:
        ValueError: the file is about something else, or is none of these.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self.results: dict[str, dict[str, Result]] = {}
        self._running = path.with_suffix(".running")
        if path.is_file():
            self._read()
        if self._running.is_file():
            workload, row = json.loads(self._running.read_text(encoding="utf-8"))
            self.put(workload, row, "failed: the process died")

    def _read(self) -> None:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            about, results = document["about"], document["results"]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"{self.path} is no file of measurements: remove it or write elsewhere") from error
        for name in {**about, **self.about}:
            if about.get(name) != self.about.get(name):
                found, wanted = about.get(name), self.about.get(name)
                raise ValueError(f"{self.path} has measurements with {name} {found}, not {wanted}: write elsewhere")
        self.results = results

    def get(self, workload: str, row: str) -> Result | None:
        """What a candidate did at a workload; None if that was not measured."""
        return self.results.get(workload, {}).get(row)

    def begin(self, workload: str, row: str) -> None:
        """Note what is about to be measured, so that a candidate that ends the process is not tried again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._running.write_text(json.dumps([workload, row]), encoding="utf-8")

    def put(self, workload: str, row: str, result: Result) -> None:
        """Keep a result; ``save`` writes it."""
        self.results.setdefault(workload, {})[row] = result
        if isinstance(result, str):  # what may end the process must not be lost with it
            self.save()
        self._running.unlink(missing_ok=True)

    def save(self) -> None:
        """Write the file anew."""
        document = {"about": self.about, "results": {name: self.results[name] for name in sorted(self.results)}}
        write_whole(self.path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Replace a file by one with this text, so that at any time it is the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
