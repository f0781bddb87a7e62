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
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .. import backend
from ..tuning import tables as tuning
from .spec import KernelBuild, all_specs

# shared memory that one block may use, from the CUDA C++ programming guide's table of compute capabilities
_KIB = 1024
SHARED_LIMITS = {"sm_80": 163 * _KIB, "sm_90": 227 * _KIB, "sm_100": 227 * _KIB}
_TENSOR_INSTRUCTIONS = (
    ("wgmma", re.compile(r"\b[HQI]GMMA\b")),
    ("tcgen05", re.compile(r"\bUTC[A-Z]*MMA\b")),
    ("mma", re.compile(r"\b[HQI]MMA\b")),
)


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


def compile_kernel(build: KernelBuild, arch: str) -> Compiled:
    """Compile one kernel for ``sm_80``, ``sm_90`` or ``sm_100`` and read its machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: build.signature.get(name, "constexpr") for name in build.kernel.arg_names}
    # torch allocates tensors at multiples of 16 bytes, which is what a launch would tell the compiler
    aligned: dict[tuple[int, ...], Any] = {
        (index,): [["tt.divisibility", 16]] for index, kind in enumerate(types.values()) if kind.startswith("*")
    }
    source = ASTSource(build.kernel, types, dict(build.constexprs), aligned)
    target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages, "maxnreg": build.max_registers}
    compiled = triton.compile(source, target=target, options=options)
    registers, spilled, sass = _inspect(compiled.asm["cubin"])
    instruction = next((name for name, pattern in _TENSOR_INSTRUCTIONS if pattern.search(sass)), "-")
    return Compiled(
        build.kernel.__name__,
        build.label,
        arch,
        registers,
        spilled,
        compiled.metadata.shared,
        instruction,
        build.needs_wgmma,
    )


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


@dataclass(frozen=True)
class Job:
    """A kernel to compile, by what another process can find it with."""

    op: str
    index: int
    arch: str


def jobs(ops: Sequence[str], archs: Sequence[str]) -> list[Job]:
    """Every kernel of the ops at the tiles of each architecture's table; one that recurs is compiled once."""
    found: list[Job] = []
    for arch in archs:
        seen = set()
        for op in ops:
            for index, build in enumerate(_builds(op, arch)):
                settings = (build.kernel, build.num_warps, build.num_stages, build.needs_wgmma)
                key = (*settings, *build.signature.items(), *build.constexprs.items())
                if key not in seen and arch in (build.archs or (arch,)):
                    seen.add(key)
                    found.append(Job(op, index, arch))
    return found


@cache
def _builds(op: str, arch: str) -> list[KernelBuild]:
    with tuning.assume(tuning.MODELS[arch]):
        return next(spec for spec in all_specs() if spec.name == op).kernels()


def run_job(job: Job) -> Compiled:
    """Compile one kernel."""
    return compile_kernel(_builds(job.op, job.arch)[job.index], job.arch)


def compiled(todo: Sequence[Job], processes: int) -> Iterator[Compiled]:
    """The compiled kernels, in order."""
    if processes == 1:
        yield from map(run_job, todo)
        return
    # spawned: a fork of a process whose threads compile may hang
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_job, todo)


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
    todo = jobs(options.op or sorted(backend.registered()), options.arch)
    print(f"{'arch':7} {'kernel':36} {'variant':36} {'regs':>4} {'spills':>6} {'shared':>7}  tensor")
    problems = 0
    for kernel in compiled(todo, min(options.jobs, len(todo))):
        print(kernel.line(), flush=True)
        problems += kernel.problem is not None
    print(f"{len(todo)} kernels, {problems} with problems, {time.monotonic() - start:.0f} s", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
