"""``python -m bench.op_call OLD NEW``: what a call of an op costs the host, two checkouts beside each other.

On tensors so small that their arithmetic hardly counts, on a CPU: what is timed are the checks of the arguments, the
choice of a backend, the dispatch, and autograd. ``forward`` is a call in training mode without gradients,
``forward+backward`` one with its backward. Each is timed on two paths: ``default``, as a user calls the op, and
``op``, through its torch.library op, as on a GPU: for that the tensors are of a subclass and ``CIFARFAST_BACKEND`` is
``torch``, and a run in which no op of this library is dispatched is an error.

Processor time is counted, with one thread. One process of each side is asked in turn for every case (old, new, old,
new, …), so that what else the machine does hits both. A figure is the median over rounds and processes. ``--save``
writes ``bench/results/cpu/op_call.json``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare_checkouts.__main__ import commit
from bench.measure import quantiles
from bench.record import Recorder
from bench.render import markdown

WORKER = Path(__file__).with_name("worker.py")
HEADER = ("op", "mode", "path", "old µs", "new µs", "new / old", "of a turn")


class Worker:
    """A process of one side that times calls when it is asked."""

    def __init__(self, checkout: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = json.loads(self._line())
        self.ops: dict[str, list[str]] = said["ops"]
        if not Path(said["package"]).is_relative_to(checkout):
            raise SystemExit(f"{checkout} is not what is imported, but {said['package']}")

    def _line(self) -> str:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return line
        raise SystemExit(f"a process that times calls ended with {self.process.wait()}")

    def seconds(self, name: str) -> float:
        """Processor seconds of one call, now."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(old: Path, new: Path, *, processes: int, rounds: int) -> list[dict[str, Any]]:
    """A row of figures for each call that both sides have."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    ops: tuple[dict[str, list[str]], ...] = ()
    for _ in range(processes):
        workers = [Worker(old), Worker(new)]
        ops = tuple(worker.ops for worker in workers)
        for name in (name for name in ops[0] if name in ops[1]):
            found = times.setdefault(name, ([], []))
            for _ in range(rounds):
                for worker, seconds in zip(workers, found, strict=True):
                    seconds.append(worker.seconds(name))
        for worker in workers:
            worker.end()
    return [row(name, *found, ops[0][name], ops[1][name]) for name, found in times.items()]


def row(name: str, old: Sequence[float], new: Sequence[float], old_ops: Sequence[str], new_ops: Sequence[str]) -> Any:
    """The figures of one call: microseconds, and new / old of the medians and of each turn."""
    op, mode, path = name.split(" | ")
    turns = [b / a for a, b in zip(old, new, strict=True)]
    return {
        "name": name,
        "op": op,
        "mode": mode,
        "path": path,
        "old_microseconds": 1e6 * statistics.median(old),
        "new_microseconds": 1e6 * statistics.median(new),
        "ratio": statistics.median(new) / statistics.median(old),
        "ratio_of_a_turn": quantiles(turns),
        "old_ops": list(old_ops),
        "new_ops": list(new_ops),
    }


def cells(figures: dict[str, Any]) -> tuple[str, ...]:
    """A row of figures as it is printed."""
    turn = figures["ratio_of_a_turn"]
    microseconds = (f"{figures[key]:.1f}" for key in ("old_microseconds", "new_microseconds"))
    names = (figures["op"], figures["mode"], figures["path"])
    return *names, *microseconds, f"{figures['ratio']:.3f}", f"{turn['p20']:.3f} … {turn['p80']:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.op_call", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout")
    parser.add_argument("new", type=Path, metavar="NEW", help="another one")
    parser.add_argument("--processes", type=int, default=3, help="of each side; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each process; default: %(default)s")
    parser.add_argument("--save", action="store_true", help="write bench/results/cpu/op_call.json")
    options = parser.parse_args(arguments)
    if options.processes < 1 or options.rounds < 2:
        parser.error("--processes must be at least 1 and --rounds at least 2")
    old, new = options.old.resolve(), options.new.resolve()
    rows = measure(old, new, processes=options.processes, rounds=options.rounds)
    print(markdown(HEADER, map(cells, rows)))
    if options.save:
        recorder = Recorder()
        for each in rows:
            recorder.add("op_call", {**each, "old_commit": commit(old), "new_commit": commit(new)})
        print(f"written to {recorder.write('op_call')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
