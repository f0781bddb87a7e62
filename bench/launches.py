"""The kernels that a training step launches, counted without a GPU.

``python -m bench.launches [--arch wrn16_8] [--optimizer asam] [--convolutions library|triton]`` prints every kernel
with its count and the lines of this project that it comes from; ``--save`` counts the cases that targets are for and
writes ``bench/results/cpu/launches.json``. The step runs on the CPU as on a GPU, but launches of Triton kernels are
recorded (``kernels/testing/recorder.py``): what the step computes is rubbish, and no launch depends on it.

What is counted, one each:

* launches of Triton kernels: these are exact, but for the rare kernel that depends on the batch's size: the batch is
  small here;
* the augmentation of a batch, which is one CUDA kernel;
* operators of torch but for views, allocations, and copies between the host and the device.

What this cannot know is how many kernels torch's operators launch: cuDNN and cuBLAS may take several for one
convolution or product (a change of layout, a split sum and its reduction), ``_foreach`` operators one for every few
dozen tensors; and where torch launches a copy or a fill of its own, a memset may stand for a kernel. On a GPU
``bench/test_train_step.py`` counts with the profiler. The work between steps is not counted.
"""

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.record import FOLDER, Recorder
from bench.render import markdown
from bench.train_step.cases import TARGETED, Case
from bench.train_step.contenders import OURS, Ours
from cifarfast.augment import Augment
from cifarfast.data import load_dataset
from cifarfast.errors import UserError
from cifarfast.kernels import backend
from cifarfast.kernels.testing import recorder
from cifarfast.kernels.tuning import tables as tuning

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 4
GPU = tuning.MODELS["sm_90"]  # whose tiles are taken
CONVOLUTIONS = ("bn_act_conv2d", "conv2d_bn_act", "conv2d")
# operators that make memory or read it on the host; views say so themselves
NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"),
    *("_local_scalar_dense", "_unsafe_view", "is_pinned"),
}
Convolutions = Literal["library", "triton"]
CONVOLUTIONS_BY: tuple[Convolutions, ...] = ("library", "triton")
Counts = Counter[tuple[str, str, str]]


@dataclass(frozen=True)
class Launches:
    """What was launched: (kind, name, line of this project) → how often.

    ``kind`` is "triton", "cuda" or "torch".
    """

    counts: Counts

    @property
    def total(self) -> int:
        """All of them."""
        return self.counts.total()

    def of(self, kind: str, name: str | None = None) -> int:
        """Those of a kind, or of a kernel or operator of a kind."""
        return sum(count for (k, n, _), count in self.counts.items() if k == kind and name in (None, n))

    def rows(self) -> list[tuple[str, str, int, str]]:
        """Kind, name, count and where they come from, the most frequent first."""
        names = Counter[tuple[str, str]]()
        for (kind, name, _), count in self.counts.items():
            names[kind, name] += count
        return [(kind, name, count, self._places(kind, name)) for (kind, name), count in names.most_common()]

    def _places(self, kind: str, name: str, most: int = 3) -> str:
        """The lines that it comes from, the most frequent first."""
        lines = Counter({line: n for (k, other, line), n in self.counts.items() if (k, other) == (kind, name)})
        found = [line for line, _ in lines.most_common(most)]
        return ", ".join(found) + (", …" if len(lines) > most else "")


class _Counting(TorchDispatchMode):
    """Counts torch's operators; those inside this package's own operators too, where launches are recorded."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not function.is_view and name not in NO_KERNEL:
            self.counts["torch", name, _line()] += 1
        return function(*args, **(kwargs or {}))


def _line() -> str:
    """The innermost line of this project's packages that led here."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGES) and path != recorder.__file__:
            return f"{path.removeprefix(f'{ROOT}{os.sep}')}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


_PACKAGES = tuple(f"{ROOT / name}{os.sep}" for name in ("cifarfast", "kernels"))


@contextlib.contextmanager
def _counted(convolutions: Convolutions) -> Iterator[Counts]:
    """Context in which launches are noted instead of done as on a GPU, and torch's operators noted and done."""
    counts: Counts = Counter()
    augment = Augment.__call__

    def augment_uncounted(self: Augment, *args: Any, **settings: Any) -> Any:
        counts["cuda", "augment", _line()] += 1
        with torch.utils._python_dispatch._disable_current_modes():
            return augment(self, *args, **settings)

    rows = tuning.load(GPU)
    library = {op: {**rows[op][0], "library": 1} for op in CONVOLUTIONS}
    with (
        mock.patch.object(Augment, "__call__", augment_uncounted),
        # what reads the labels' values, which on a GPU is left out
        mock.patch.object(import_module("cifarfast.kernels.cross_entropy.target").Target, "check_labels"),
        tuning.override(library if convolutions == "library" else {}),
        _Counting(counts),
        recorder.record(convolutions=convolutions) as launches,
    ):
        yield counts
    for launch in launches:
        counts["triton", launch.name, launch.line.removeprefix(f"{ROOT}{os.sep}")] += 1


def count_step(case: Case, convolutions: Convolutions) -> Launches:
    """What a step in bf16 launches after the first one.

    Args:
        case: its batch does not matter.
        convolutions: "library": cuDNN's, "triton": this package's own.
    """
    splits = load_dataset(f"synthetic:train={4 * IMAGES},test={IMAGES}")
    contender = Ours(replace(case, batch=IMAGES), splits, precision="bf16", **dict(OURS.settings))
    with _counted(convolutions):  # what only a first step launches
        contender.begin(contender.weights())
        contender.trainer.train_step(IMAGES, 0)
    with _counted(convolutions) as counts:
        contender.trainer.train_step(IMAGES, 1)
    return Launches(counts)


def table(launches: Launches) -> str:
    """Markdown: what was launched, how often, and where it comes from."""
    rows = [(f"`{name}`", kind, str(count), places) for kind, name, count, places in launches.rows()]
    kinds = ", ".join(f"{launches.of(kind)} {kind}" for kind in ("triton", "cuda", "torch"))
    return f"{markdown(('kernel or operator', 'by', 'launches', 'from'), rows)}\n\n{launches.total} in all: {kinds}"


def row(case: Case, convolutions: Convolutions) -> dict[str, Any]:
    """A case's counts as a row of results."""
    launches = count_step(case, convolutions)
    return {
        "name": f"{case.arch} {case.optimizer} | {convolutions}",
        "arch": case.arch,
        "optimizer": case.optimizer,
        "convolutions": convolutions,
        "launches": launches.total,
        **{kind: launches.of(kind) for kind in ("triton", "cuda", "torch")},
        "kernels": [{"name": name, "by": kind, "launches": count} for kind, name, count, _ in launches.rows()],
    }


def save(folder: Path = FOLDER) -> Path:
    """Count the cases that targets are for and write ``launches.json``."""
    recorder = Recorder(folder)
    for arch, optimizer in dict.fromkeys((case.arch, case.optimizer) for case in TARGETED):
        for convolutions in CONVOLUTIONS_BY:
            recorder.add("launches", row(Case(arch, optimizer, IMAGES), convolutions))
    return recorder.write("launches")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.launches", description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="wrn16_8", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--optimizer", default="asam", choices=("sgd", "asam"), help="default: %(default)s")
    parser.add_argument("--convolutions", default="library", choices=CONVOLUTIONS_BY, help="default: %(default)s")
    parser.add_argument("--save", action="store_true", help="write the counts of the cases that targets are for")
    options = parser.parse_args(arguments)
    if not backend.triton_importable():
        print("launches: triton is not installed", file=sys.stderr)
        return 2
    if options.save:
        print(f"written to {save()}")
        return 0
    try:
        print(table(count_step(Case(options.arch, options.optimizer, IMAGES), options.convolutions)))
    except UserError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
