"""``python -m cifarfast.kernels.tune``: measure tiles on this GPU and write its table."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import backend
from ..testing.spec import all_specs
from ..tuning.tables import Tile, table_path
from .measure import Bench
from .precompiler import Precompiler
from .record import Measurements
from .search import Search
from .workloads import Workload


def main(arguments: list[str] | None = None) -> int:
    """Tune; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cifarfast.kernels.tune", description=__doc__)
    ops = sorted(spec.name for spec in all_specs() if spec.tile_size)
    parser.add_argument("--op", nargs="+", choices=ops, default=ops, help="only these ops")
    parser.add_argument("--out", type=Path, help="the table; default: the one that this GPU model reads")
    parser.add_argument(
        "--budget-seconds", type=float, default=540.0, help="begin nothing after this time; default: %(default)g"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that compile; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    if options.budget_seconds <= 0 or options.jobs < 1:
        parser.error("--budget-seconds and --jobs must be positive")
    unsupported_reason = _unsupported_reason()
    if unsupported_reason:
        print(unsupported_reason, file=sys.stderr)
        return 2
    start = time.monotonic()
    table = options.out or table_path(torch.cuda.get_device_name())
    try:
        measurements = Measurements(table.with_suffix(".measurements.json"), about())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2

    ahead = Precompiler(options.jobs)

    def prepare(todo: Sequence[tuple[Workload, Tile]]) -> None:
        print(f"{len(todo)} measurements of {ahead.start(todo)} candidates", flush=True)

    deadline = start + options.budget_seconds
    search = Search(table, measurements, Bench(), deadline=deadline, prepare=prepare, ready=ahead.wait)
    try:
        complete = search.run(options.op)
    except RuntimeError as error:
        if "CUDA error" not in str(error):
            raise
        print(f"{error}\ngoing on in another process without that candidate", flush=True)
        ahead.close()
        left = max(1.0, deadline - time.monotonic())
        again = [sys.executable, "-m", "cifarfast.kernels.tune", *(sys.argv[1:] if arguments is None else arguments)]
        return subprocess.run([*again, f"--budget-seconds={left}"]).returncode
    finally:
        ahead.close()
    rest = "all measured" if complete else "out of time: the same command goes on from here"
    print(f"{table}: {rest}, {time.monotonic() - start:.0f} s")
    return 0


def about() -> dict[str, Any]:
    """What is measured on."""
    import triton

    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": gpu.name,
        "capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
    }


def _unsupported_reason() -> str | None:
    """Why nothing can be tuned here."""
    if not torch.cuda.is_available():
        return "tuning needs an NVIDIA GPU of compute capability 8.0 or later, and there is none"
    if torch.cuda.get_device_capability() < (8, 0):
        major, minor = torch.cuda.get_device_capability()
        return f"tuning needs an NVIDIA GPU of compute capability 8.0 or later, this one has {major}.{minor}"
    if not backend.triton_importable():
        return "tuning needs triton, which is not installed"
    if os.environ.get(backend.BACKEND_VARIABLE):
        return f"tuning chooses between backends: unset {backend.BACKEND_VARIABLE}"
    return None


if __name__ == "__main__":
    sys.exit(main())
