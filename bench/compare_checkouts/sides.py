"""The two checkouts that are compared, and what is said about them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
NOTHING: Mapping[str, str] = {}
# of the caller's shell, what would change results or the width of help texts
_UNSET = ("PYTHONPATH", "CIFARFAST_BACKEND", "CIFARFAST_DEBUG", "CIFARFAST_DATA", "TRITON_INTERPRET", "FORCE_COLOR")
_SET = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class SideError(Exception):
    """A program of one side failed; the message has the end of what it said."""


@dataclass(frozen=True)
class Row:
    """One thing that was compared.

    ``outcome`` is "equal", "fewer", "reworded" or "noted", which pass, or "different" or "more", which do not.
    """

    part: str
    what: str
    outcome: str
    detail: str = ""

    @property
    def passes(self) -> bool:
        """Whether the new side may be so."""
        return self.outcome not in ("different", "more")


def compared(part: str, what: str, differences: Sequence[str]) -> Row:
    """The row of something that must be equal."""
    shown = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
    return Row(part, what, "different" if differences else "equal", shown)


@dataclass(frozen=True)
class Side:
    """A checkout, whose programs run in processes of their own."""

    name: str
    path: Path

    def start(self, *arguments: str, variables: Mapping[str, str] = NOTHING) -> "subprocess.Popen[str]":
        """Start ``python -P ARGUMENTS``: nothing but the checkout is put in front of the installed packages."""
        inherited = {key: value for key, value in os.environ.items() if key not in _UNSET}
        return subprocess.Popen(
            [sys.executable, "-P", *arguments],
            cwd=self.path,
            env={**inherited, **_SET, "PYTHONPATH": str(self.path), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *arguments: str,
        stdin: str = "",
        codes: Sequence[int] = (0,),
        variables: Mapping[str, str] = NOTHING,
    ) -> str:
        """What ``python -P ARGUMENTS`` prints.

        Raises:
            SideError: another exit code than ``codes``.
        """
        process = self.start(*arguments, variables=variables)
        out, err = process.communicate(stdin)
        if process.returncode not in codes:
            said = "\n".join((err or out).splitlines()[-15:])
            raise SideError(f"{self.name}: python {' '.join(arguments)} ended with {process.returncode}:\n{said}")
        return out

    def cifarfast(self, *arguments: str, codes: Sequence[int] = (0,), variables: Mapping[str, str] = NOTHING) -> str:
        """What ``python -m cifarfast ARGUMENTS`` prints."""
        return self.run("-m", "cifarfast", *arguments, codes=codes, variables=variables)

    def entries(self, calls: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, Any]]:
        """Run ``python -m MODULE ARGUMENTS`` for each call, one after the other in one process.

        Returns:
            of each call the exit code, stdout and stderr, with the checkout's path written as ``CHECKOUT``.
        """
        found = self.run(str(HERE / "entries.py"), stdin=json.dumps(calls))
        return json.loads(found.replace(str(self.path), "CHECKOUT"))

    def check(self) -> None:
        """Raise a SideError unless this checkout's own packages are what its processes import."""
        places = "import cifarfast, cifarfast.kernels as k; print(cifarfast.__file__); print(k.__file__)"
        for place in self.run("-c", places).split():
            if not Path(place).is_relative_to(self.path):
                raise SideError(f"{self.name}: {self.path} is not what is imported, but {place}")


@dataclass(frozen=True)
class Pair:
    """Both sides, and where they put what they make.

    Args:
        old, new: the checkouts.
        scratch: a folder of this comparison.
        data_dir: that holds ``cifar-10-batches-py``; without it data takes its place that needs no files.
        device: "cpu" or "cuda".
        steps: of the long trainings.
        ops: whose kernels are compiled; all if empty.
    """

    old: Side
    new: Side
    scratch: Path
    data_dir: Path | None = None
    device: str = "cpu"
    steps: int = 50
    ops: tuple[str, ...] = ()

    def both(self, work: Callable[[Side], T]) -> tuple[T, T]:
        """``work`` for both sides at the same time, the old one's result first."""
        with ThreadPoolExecutor(2) as pool:
            old, new = pool.map(work, (self.old, self.new))
        return old, new


def keys_that_differ(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Paths at which two JSON objects differ, with both values."""
    found = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += keys_that_differ(a, b, f"{prefix}{key}.")
        elif key not in old or key not in new:
            found.append(f"{prefix}{key} only in the {'old' if key in old else 'new'}")
        elif a != b:
            found.append(f"{prefix}{key}: {_short(a)} → {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
