"""Compiling candidates in other processes before they are measured; Triton's cache on disk is what they share."""

import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from ..tuning import Tile, override
from .candidates import label
from .problems import Problem


def compile_ahead(todo: Sequence[tuple[Problem, Tile]], processes: int) -> int:
    """Compile the kernels of these rows and return how many rows that was; errors will show when they are measured.

    Each row runs once, on two images: their number is in no kernel's code. Nothing else uses the GPU meanwhile, and the
    processes are gone when this returns, so that they disturb no measurement.
    """
    distinct = {_same_code(problem, row): (problem, row) for problem, row in reversed(todo)}
    if distinct:
        # spawned: CUDA does not survive a fork
        with ProcessPoolExecutor(min(processes, len(distinct)), mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(compile_candidate, *pair) for pair in distinct.values()]:
                future.exception()
    return len(distinct)


def compile_candidate(problem: Problem, row: Tile) -> None:
    """Run a problem's step once, on two images."""
    from .trial import trial_of

    with override({problem.op: row}):
        trial_of(problem, images=False).step()


def _same_code(problem: Problem, row: Tile) -> tuple[Problem, str]:
    """Equal for cases that differ only in their images, whose number begins ``512x128x32x32``."""
    return replace(problem, case=re.sub(r"\b\d+x(?=\d+x\d+x\d+)", "", problem.case)), label(row)
