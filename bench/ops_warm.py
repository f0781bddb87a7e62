"""Filling the compilers' caches on disk in several processes before anything is timed."""

import os
import time
from collections.abc import Callable, Sequence
from multiprocessing import TimeoutError, get_context
from typing import Any

import torch

from cifarfast.kernels import backend
from cifarfast.kernels.testing.check import training_step
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker, all_specs

Item = tuple[str, str, str]  # op, case, implementation
PROCESSES = 12
COMPILING = ("cifarfast", "cifarfast kernels", "torch.compile")


def warm(items: Sequence[Item], seconds: float, processes: int = PROCESSES) -> int:
    """Run each item once on the GPU, in processes that are gone afterwards; return how many went well.

    Triton and inductor keep what they compiled on disk, where the benchmark finds it; what is missing after so many
    seconds, because a process waits for ever or has died, it compiles itself.
    """
    items = [item for item in items if item[2] in COMPILING]
    if not items:
        return 0
    end, done = time.monotonic() + seconds, 0
    # one thread a process: the processes are what runs at the same time
    before = os.environ.get("TORCHINDUCTOR_COMPILE_THREADS")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    try:
        # unlike an executor, a pool ends its processes when it is left
        with get_context("spawn").Pool(min(processes, len(items))) as pool:
            for result in [pool.apply_async(run_once, (item,)) for item in items]:
                try:
                    result.get(max(0.0, end - time.monotonic()))
                    done += 1
                except TimeoutError:
                    continue
                except Exception as error:  # it will show when it is measured
                    print(f"not compiled ahead: {error!r}", flush=True)
            return done
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
    inputs = spec.benchmark_cases[case](SampleMaker(torch.bfloat16 if device == "cuda" else torch.float32, device))
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
