"""Launches through Triton's own launcher as on an H200, but for the call of the driver: nothing is computed.

The interpreter does not bind arguments as a launch does, and the compile report compiles without a launch: what only
the launcher refuses, or specialises on, shows here.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

from cifarfast.kernels import backend
from cifarfast.kernels.tuning import tables as tuning

GPU = "NVIDIA H200"
_MOST_PROGRAMS = (2**31 - 1, 65535, 65535)
# what a block may use on compute capability 9.0
_MOST_SHARED_BYTES = 227 * 1024


class _Driver:
    """What the launcher asks a driver for before it calls it."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@contextlib.contextmanager
def launches(*, compiles: bool) -> Iterator[set[str]]:
    """Context in which ops on CPU tensors take their Triton kernels and launch them on a GPU that is not there.

    Yields the names of the kernels launched. Results are whatever the memory held. ``compiles`` is whether kernels are
    compiled to machine code too, as they are specialised for these arguments.
    """
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    names: set[str] = set()
    run = JITFunction.run

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **settings: Any) -> Any:
        names.add(self.fn.__name__)
        programs = grid(settings) if callable(grid) else grid
        assert all(isinstance(n, int) and 0 < n <= most for n, most in zip(programs, _MOST_PROGRAMS, strict=False)), (
            f"{self.fn.__name__}: grid {programs}"
        )
        kernel = run(self, *args, grid=grid, warmup=True, **settings)
        if compiles:
            kernel = kernel.result() if hasattr(kernel, "result") else kernel
            shared = kernel.metadata.shared
            assert shared <= _MOST_SHARED_BYTES, f"{self.fn.__name__}: {shared} bytes of shared memory"
        return kernel

    def choose(op: str, device: torch.device) -> backend.Choice:
        return backend.Choice("triton", "launched on no GPU")

    with (
        mock.patch.object(driver, "_active", _Driver()),
        mock.patch.object(JITFunction, "run", launch),
        mock.patch.object(JITFunction, "_do_compile", JITFunction._do_compile if compiles else _not_compiled),
        mock.patch.object(backend, "choose", choose),
        mock.patch.dict(os.environ, {backend.BACKEND_VARIABLE: "triton"}),  # convolutions too
        tuning.assume(GPU),
    ):
        yield names


def _not_compiled(*args: Any, **settings: Any) -> None:
    return None
