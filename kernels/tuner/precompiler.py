"""Compiling candidates in other processes while others are measured; Triton's cache on disk is what they share."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult, Pool
from typing import Any

from ..tuning.tables import Tile, override
from .candidates import label
from .workloads import Workload

_PATIENCE_SECONDS = 60.0  # a process that has died leaves what it was at undone


class Precompiler:
    """Processes that compile rows in the order in which they are measured.

    They launch no kernel, so that a wrong one neither ends nor holds them up and the GPU is free to measure on. What
    goes wrong here will show when the row is measured, in whose process it is then compiled.

    Args:
        processes: how many.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: Pool | None = None
        self._results: dict[tuple[Workload, str], AsyncResult[None]] = {}

    def start(self, todo: Sequence[tuple[Workload, Tile]]) -> int:
        """Begin with these rows; return how many differ in what is compiled."""
        for workload, row in todo:
            key = _same_code(workload, row)
            if key not in self._results:
                # spawned: CUDA does not survive a fork
                self._pool = self._pool or get_context("spawn").Pool(self._processes)
                self._results[key] = self._pool.apply_async(compile_candidate, (workload, row))
        return len(self._results)

    def wait(self, workload: Workload, row: Tile) -> None:
        """Return when a row has been compiled, or will not be."""
        result = self._results.get(_same_code(workload, row))
        if result is not None:
            result.wait(_PATIENCE_SECONDS)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None


def compile_candidate(workload: Workload, row: Tile) -> None:
    """Compile what a workload's step on two images launches: their number is in no kernel's code."""
    from .measure import load_workload

    with compiling_only(), override({workload.op: row}):
        load_workload(workload, images=False).step()


@contextmanager
def compiling_only() -> Iterator[None]:
    """Context in which Triton kernels are compiled where they would be launched."""
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compile_kernel(self: Any, *args: Any, grid: Any, warmup: bool, **settings: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **settings)

    JITFunction.run = compile_kernel
    try:
        yield
    finally:
        JITFunction.run = run


def _same_code(workload: Workload, row: Tile) -> tuple[Workload, str]:
    """Equal for cases that differ only in their images, whose number begins ``512x128x32x32``."""
    return replace(workload, case=re.sub(r"\b\d+x(?=\d+x\d+x\d+)", "", workload.case)), label(row)
