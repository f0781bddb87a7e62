"""Other people's programs beside ours: run as they are, from a checkout of theirs, and read as they print."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.measure import quantiles
from cifarfast.data import Splits, load_dataset


@dataclass(frozen=True)
class Peer:
    """A program that trains CIFAR-10 again and again and prints a table.

    Args:
        program: its file in the checkout.
        target_percent: the accuracy it is for.
        runs: trainings to wait for, after one that compiles.
        limit_seconds: to wait for them at most.
    """

    program: str
    target_percent: float
    runs: int
    limit_seconds: float

    def run(self, checkout: Path, images: Path, folder: Path) -> dict[str, Any]:
        """Run it in ``folder`` on the CIFAR-10 in ``images``; its accuracies and seconds.

        Raises:
            RuntimeError: it is not there, or no training ended in time; the message has the end of what it printed.
        """
        program = (checkout / self.program).resolve()
        if not program.is_file():
            raise RuntimeError(f"{program} is not there: --airbench takes the checkout's path")
        splits = load_dataset("cifar10", data_dir=images, download=False)
        write_images(splits, folder / "cifar10")
        lines: list[str] = []
        runs: list[dict[str, str]] = []
        with started(program, folder) as output:
            for run in finished_runs(self._until(output, lines)):
                runs.append(run)
                if len(runs) == 1 + self.runs:
                    break
        if len(runs) < 2:
            raise RuntimeError(f"{self.program}: no training ended in {self.limit_seconds:.0f} s: {lines[-5:]}")
        return {"data_official": splits.official, **figures(self, runs[1:])}

    def _until(self, output: Iterable[str | None], lines: list[str]) -> Iterator[str]:
        """The lines printed until the limit; None is a moment without one."""
        end = time.monotonic() + self.limit_seconds
        for line in output:
            if line is not None:
                lines.append(line)
                yield line
            if time.monotonic() > end:
                return


PEERS = (Peer("airbench94_muon.py", 94.0, 5, 200.0), Peer("airbench96_faster.py", 96.0, 2, 280.0))


def figures(peer: Peer, runs: list[dict[str, str]]) -> dict[str, Any]:
    """A row of results from the last rows of trainings."""
    seconds = [float(next(value for key, value in run.items() if key.endswith("seconds"))) for run in runs]
    accuracies = [100 * float(run["tta_val_acc"]) for run in runs]
    return {
        "contender": peer.program,
        "target_percent": peer.target_percent,
        "trainings": len(runs),
        "train_seconds": quantiles(seconds),
        "accuracy_percent": sum(accuracies) / len(accuracies),
        "accuracies_percent": accuracies,
        "left_out": "the first training, in which its kernels are compiled",
        "includes": "what the program itself times",
    }


def finished_runs(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """From a printed table the row that ends each training: column → text."""
    columns: list[str] = []
    for line in lines:
        if not line.lstrip().startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "epoch" in cells:
            columns = cells
        elif len(cells) == len(columns):
            row = dict(zip(columns, cells, strict=True))
            if row["epoch"] == "eval":
                yield row


def write_images(splits: Splits, folder: Path) -> None:
    """The images as these programs keep them, so that they load no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train.pt", splits.train), ("test.pt", splits.test)):
        torch.save({"images": part.images, "labels": part.labels, "classes": list(part.classes)}, folder / name)


@contextlib.contextmanager
def started(program: Path, folder: Path) -> Iterator[Iterator[str | None]]:
    """The lines that a running Python program prints, None after each second without one; ended in the end."""
    process = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield _lines(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _lines(process: "subprocess.Popen[str]") -> Iterator[str | None]:
    arrived: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            arrived.put(line.rstrip("\n"))
        arrived.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive() or not arrived.empty():
        try:
            yield arrived.get(timeout=1.0)
        except queue.Empty:
            yield None
