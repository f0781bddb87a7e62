"""Compile every Triton kernel of the library at its tiles, without a GPU, and print what it costs.

``python -m cifarfast.kernels.report --arch sm_90`` prints a line for each kernel: registers a thread, spilled bytes,
shared memory, and which tensor-core instructions the machine code has. Exit code 1 if a kernel spills, needs more
shared memory than the architecture gives a block, or lacks wgmma on sm_90 where it must have it. An architecture's
tiles are those of the GPU model that stands for it (``tuning.MODELS``). Kernels are compiled in several processes, and
what Triton's cache has is not compiled again.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from .. import backend
from .recorder import Launch, record
from .spec import Inputs, OpSpec, SampleMaker, all_specs

# shared memory that one block may use, from the CUDA C++ programming guide's table of compute capabilities
_KIB = 1024
SHARED_LIMITS = {"sm_80": 163 * _KIB, "sm_90": 227 * _KIB, "sm_100": 227 * _KIB}
_TENSOR_INSTRUCTIONS = (
    ("wgmma", re.compile(r"\b[HQI]GMMA\b")),
    ("tcgen05", re.compile(r"\bUTC[A-Z]*MMA\b")),
    ("mma", re.compile(r"\b[HQI]MMA\b")),
)
# of the kernels that must use wgmma on sm_90: the argument that says how many channels a program computes. With fewer
# than so many they do not fill the instruction.
_CHANNELS_OF_A_TILE = {"conv_fwd_kernel": "BLOCK_K", "conv_dgrad_kernel": "BLOCK_C", "conv_wgrad_kernel": "BLOCK_K"}
_LEAST_WGMMA_CHANNELS = 64


@dataclass(frozen=True)
class Build:
    """A launch to compile; ``label`` says what launches it."""

    label: str
    launch: Launch


@dataclass(frozen=True)
class Compiled:
    """What one kernel needs on one architecture: registers a thread, spilled and shared bytes, tensor instructions."""

    kernel: str
    label: str
    arch: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    tensor_instruction: str
    needs_wgmma: bool = False

    @property
    def problem(self) -> str | None:
        """Why this kernel must not be used as it is; None if it may."""
        if self.spilled_bytes:
            return f"spills {self.spilled_bytes} bytes a thread"
        if self.needs_wgmma and self.arch == "sm_90" and self.tensor_instruction != "wgmma":
            return "does not use wgmma"
        limit = SHARED_LIMITS[self.arch]
        return f"needs more than {limit} bytes of shared memory" if self.shared_bytes > limit else None

    def line(self) -> str:
        """The kernel's row in the report."""
        return (
            f"{self.arch:7} {self.kernel:36} {self.label:36} {self.registers:4} {self.spilled_bytes:6} "
            f"{self.shared_bytes:7}  {self.tensor_instruction:8} {self.problem or ''}"
        ).rstrip()


def compile_kernel(build: Build) -> Compiled:
    """Compile a kernel as it is launched and read its machine code."""
    launch = build.launch
    kernel = launch.compile()
    registers, spilled, sass = _inspect(kernel.asm["cubin"])
    instruction = next((name for name, pattern in _TENSOR_INSTRUCTIONS if pattern.search(sass)), "-")
    shared = kernel.metadata.shared
    needs = needs_wgmma(launch)
    return Compiled(launch.name, build.label, launch.arch, registers, spilled, shared, instruction, needs)


def needs_wgmma(launch: Launch) -> bool:
    """Whether a kernel must use Hopper's wgmma on sm_90."""
    return launch.settings.get(_CHANNELS_OF_A_TILE.get(launch.name, ""), 0) >= _LEAST_WGMMA_CHANNELS


def _inspect(cubin: bytes) -> tuple[int, int, str]:
    """Registers a thread, bytes of local memory a thread (the stack is where registers spill to), and the SASS."""
    from triton.tools.disasm import path_to_cuobjdump

    cuobjdump = path_to_cuobjdump()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = subprocess.run(
            [cuobjdump, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True
        ).stdout
        sass = subprocess.run([cuobjdump, "-sass", str(path)], capture_output=True, text=True, check=True).stdout
    counts = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
    return int(counts["REG"]), int(counts["STACK"]) + int(counts["LOCAL"]), sass


def builds(ops: Sequence[str], archs: Sequence[str]) -> list[Build]:
    """What the ops launch at the tiles of each architecture's table; a variant that recurs is there once."""
    found: dict[str, Build] = {}
    for arch, op in product(archs, ops):
        spec = next(spec for spec in all_specs() if spec.name == op)
        with record(arch) as launches:
            for label, case in spec.compile_cases().items():
                first = len(launches)
                _run(spec, case(SampleMaker(torch.bfloat16, "meta")))
                for launch in launches[first:]:
                    found.setdefault(launch.variant, Build(label, launch))
    return list(found.values())


def _run(spec: OpSpec, inputs: Inputs) -> None:
    """Forward and backward, or with ``backward=False`` among the inputs the forward that needs no gradient."""
    if not inputs.pop("backward", True):
        spec.function(**inputs)
        return
    leaves = {name: inputs[name].detach().requires_grad_() for name in spec.differentiable if name in inputs}
    results = spec.function(**{**inputs, **leaves})
    outputs = [out for out in (results if isinstance(results, tuple) else [results]) if leaves and out.requires_grad]
    if outputs:
        torch.autograd.grad(outputs, list(leaves.values()), [torch.empty_like(out) for out in outputs])


def compiled(todo: Sequence[Build], processes: int) -> Iterator[Compiled]:
    """The compiled kernels, in order."""
    if processes == 1:
        yield from map(compile_kernel, todo)
        return
    # spawned: a fork of a process whose threads compile may hang
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_kernel, todo)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cifarfast.kernels.report", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", nargs="+", default=list(SHARED_LIMITS), choices=list(SHARED_LIMITS))
    parser.add_argument("--op", nargs="+", default=None, choices=sorted(backend.registered()), help="only these ops")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default: one a core")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    if not backend.triton_importable():
        print("triton is not installed", file=sys.stderr)
        return 2
    import triton

    if triton.knobs.runtime.interpret:
        print("TRITON_INTERPRET is set: interpreted kernels cannot be compiled", file=sys.stderr)
        return 2
    start = time.monotonic()
    todo = builds(options.op or sorted(backend.registered()), options.arch)
    print(f"{'arch':7} {'kernel':36} {'variant':36} {'regs':>4} {'spills':>6} {'shared':>7}  tensor")
    problems = 0
    for kernel in compiled(todo, min(options.jobs, len(todo))):
        print(kernel.line(), flush=True)
        problems += kernel.problem is not None
    print(f"{len(todo)} kernels, {problems} with problems, {time.monotonic() - start:.0f} s", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
