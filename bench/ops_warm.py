"""Filling the compilers' caches on disk in several processes before anything is timed."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import torch

from cifarfast.kernels import backend
from cifarfast.kernels.check import training_step
from cifarfast.kernels.spec import Maker, OpSpec, all_specs

Item = tuple[str, str, str]  # op, case, implementation
PROCESSES = 12
COMPILING = ("cifarfast", "cifarfast kernels", "torch.compile")


def warm(items: Sequence[Item], processes: int = PROCESSES) -> int:
    """Run each item once on the GPU, in processes that are gone afterwards; return how many went well.

    Triton and inductor keep what they compiled on disk, where the benchmark finds it.
    """
    items = [item for item in items if item[2] in COMPILING]
    # one thread a process: the processes are what runs at the same time
    before = os.environ.get("TORCHINDUCTOR_COMPILE_THREADS")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(min(processes, len(items) or 1), mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(run_once, item) for item in items]
            return sum(future.exception() is None for future in futures)
    except BrokenProcessPool:  # the benchmark will compile what is missing
        return 0
    finally:
        if before is None:
            del os.environ["TORCHINDUCTOR_COMPILE_THREADS"]
        else:
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = before


def run_once(item: Item, device: str = "cuda") -> None:
    """One forward and backward of an implementation."""
    op, case, implementation = item
    spec = next(spec for spec in all_specs() if spec.name == op)
    if implementation == "cifarfast kernels":
        os.environ[backend.BACKEND_VARIABLE] = "triton"
    else:
        os.environ.pop(backend.BACKEND_VARIABLE, None)
    inputs = spec.benchmark_cases[case](Maker(torch.bfloat16 if device == "cuda" else torch.float32, device))
    training_step(function_of(spec, implementation), inputs, spec.differentiable)()
    if device == "cuda":
        torch.cuda.synchronize()


def function_of(spec: OpSpec, implementation: str) -> Callable[..., Any]:
    """What computes the op in an implementation."""
    if implementation.startswith("cifarfast"):
        return spec.function
    if implementation == "library":
        assert spec.library is not None
        return spec.library[1]
    if implementation == "torch eager":
        return spec.eager
    assert implementation == "torch.compile", implementation
    torch.compiler.reset()
    return torch.compile(spec.eager, dynamic=False)
