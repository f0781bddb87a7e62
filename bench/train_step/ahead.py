"""``python -m bench.train_step.ahead``: one step of every case that targets are for, for what it leaves on disk.

Triton compiles a network's kernels one after the other, for half a minute; processes beside each other, one for each
network and precision, do that while something else is measured or tested. Nothing of what they compute is kept.
"""

import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch

from .cases import TARGETED, Case, load_images
from .contenders import OURS

PRECISIONS = ("auto", "fp32")  # what is timed and what is verified


def run_steps(cases: Sequence[Case], precision: str, device: torch.device) -> None:
    """A step of each case, uncaptured."""
    splits = load_images(device)
    for case in cases:
        contender = replace(OURS, settings=(*OURS.settings, ("graph", False))).build(case, splits, precision=precision)
        contender.begin(contender.weights())
        contender.step(0)


def together(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases and the plain ones of those with two passes, those of a network together."""
    every = dict.fromkeys(plain for case in cases for plain in (replace(case, optimizer="sgd"), case))
    return [[case for case in every if case.arch == arch] for arch in dict.fromkeys(case.arch for case in every)]


def main() -> int:
    """Do them all; return the exit code."""
    if not torch.cuda.is_available():
        print("ahead: torch sees no NVIDIA GPU here", file=sys.stderr)
        return 2
    todo = [(cases, precision) for cases in together(TARGETED) for precision in PRECISIONS]
    failed = False
    # spawned: CUDA does not survive a fork
    with ProcessPoolExecutor(len(todo), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_steps, *item, torch.device("cuda", 0)) for item in todo]
        for (cases, precision), future in zip(todo, futures, strict=True):
            if error := future.exception():
                failed = True
                print(f"{cases[0].arch} {precision}:")
                traceback.print_exception(error, file=sys.stdout)
            else:
                print(f"{cases[0].arch} {precision}: done", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
