"""All that needs an NVIDIA GPU, in one command of at most nine minutes: ``make gpu-check``.

``python -m bench.gpu_check [--only tests,ops] [--seconds 530] [--data-dir DIR] [--airbench PATH]`` from the checkout's
root; nothing has to be installed but what cifarfast needs, and nothing is fetched. It builds csrc/, runs the tests that
are marked ``gpu``, the training step's benchmark, a short training, the other benchmarks, and every kernel under
compute-sanitizer, in this order: what matters most comes first, and each part has its time.

Results go to ``bench/results/<device>/*.json`` as they come, and ``gpu_check.md`` beside them is one page that ends
with the targets that were missed. The exit code is 1 when a part failed or had no time to end; a missed target is not
a failure.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.parts import Part, Ran, deadlines, run_part
from bench.record import FOLDER, Recorder, device_folder, session_environment
from bench.summary import page

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 530.0
TRAINING_EPOCHS = 10
# where a checkout's tests that need a GPU are, the ones of the trainer first
TESTS = ("tests/test_step.py", "tests/models", "tests/augment", "tests/kernels", "tests")


class Check:
    """The parts of a check and where they leave what they find.

    Args:
        arguments: of the command line.
        scratch: a folder for logs and the training.
    """

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.arguments, self.scratch = arguments, scratch
        self.environment = session_environment()
        self.folder = FOLDER / device_folder(self.environment)
        self._unpacking: subprocess.Popen[bytes] | None = None

    def parts(self) -> list[Part]:
        """Those asked for, in the order of their importance."""
        compiled = {"CIFARFAST_BUILD_CUDA": "1"}
        known = [
            Part("build", "build csrc/ with CUDA", 40, self._build, compiled),
            Part("tests", "tests marked gpu", 150, self._tests, self._for_many_processes(), self._read_tests),
            Part("train_step", "training step", 185, lambda: self._benchmark("train_step", "-s", "-k", "test_step")),
            Part("training", f"{TRAINING_EPOCHS} epochs of WRN-16-8", 40, self._training, read=self._read_training),
            Part("augment", "augmentation", 20, lambda: self._benchmark("augment")),
            Part("ops", "fused ops", 60, lambda: self._benchmark("ops")),
            Part("memcheck", "memory checker", 40, self._memcheck, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
        ]
        if self.arguments.airbench:
            peers = ["-s", "-k", "test_peer", f"--airbench={Path(self.arguments.airbench).absolute()}"]
            known.append(Part("peers", "airbench's programs", 200, lambda: self._benchmark("train_step", *peers)))
        chosen = self.arguments.only
        unknown = set(chosen) - {part.name for part in known}
        if unknown:
            names = ", ".join(part.name for part in known)
            raise SystemExit(f"gpu_check: no part {', '.join(sorted(unknown))}; there are {names}")
        return [part for part in known if not chosen or part.name in chosen]

    # ── commands ──

    def _build(self) -> list[str]:
        lines = [
            "from cifarfast import _build",
            "module = _build.load()",
            "print(_build.status().reason, _build.status().path)",
            "raise SystemExit(module is None or not module.with_cuda)",
        ]
        return [sys.executable, "-c", "\n".join(lines)]

    def _tests(self) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rf", "--tb=short", "-p", "no:cacheprovider"]
        command += ["--continue-on-collection-errors", f"--junitxml={self._junit}", *self._parallel()]
        return [*command, *TESTS]

    @property
    def _junit(self) -> Path:
        return self.scratch / "tests.xml"

    @property
    def _jobs(self) -> int:
        """Processes for the tests: most of their time is the compilation of small kernels."""
        if importlib.util.find_spec("xdist") is None:
            return 1
        return self.arguments.jobs or max(1, min(12, (os.cpu_count() or 1) - 2))

    def _parallel(self) -> list[str]:
        return ["-n", str(self._jobs), "--dist", "worksteal"] if self._jobs > 1 else ["-p", "no:xdist"]

    def _for_many_processes(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"} if self._jobs > 1 else {}

    def _benchmark(self, suite: str, *options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", f"bench/test_{suite}.py", "--benchmark-enable", "--save-each"]
        command += ["-q", "-rf", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", *options]
        return command if self.arguments.full else [*command, "--short"]

    def _training(self) -> list[str]:
        command = [sys.executable, "-m", "cifarfast.train", "--recipe", "b23_wrn_sgd", "--quiet"]
        command += ["--epochs", str(TRAINING_EPOCHS), "--out", str(self._run_folder)]
        data = self._data()
        return [*command, "--data-dir", str(data)] if data else [*command, "--dataset", "synthetic:train=50000"]

    @property
    def _run_folder(self) -> Path:
        return self.scratch / "run"

    def _data(self) -> Path | None:
        """A folder with CIFAR-10: the one given, the usual one, or what the tests' packed images unpack to."""
        from cifarfast.data import data_folder

        if self.arguments.data_dir:
            return Path(self.arguments.data_dir)
        usual = data_folder(None)
        if any((usual / name).is_dir() for name in ("cifar-10-batches-py", "cifar-10-batches-bin")):
            return usual
        if self._unpacking is not None:
            self._unpacking.wait()
        target = ROOT / ".cache" / "data"
        return target if (target / "cifar-10-batches-py").is_dir() else None

    def start_unpacking(self) -> None:
        """Unpack the tests' images, if they are there, while other parts run."""
        command = [sys.executable, "-c", "from real_images import unpacked; unpacked()"]
        paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._unpacking = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True
        )

    def _memcheck(self) -> list[str] | str:
        sanitizer = find_sanitizer()
        if sanitizer is None:
            return "compute-sanitizer is neither on the PATH nor in the CUDA toolkit"
        command = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", "--print-limit", "20"]
        return [*command, sys.executable, "-m", "bench.memcheck"]

    # ── what they found ──

    def _read_tests(self, ran: Ran) -> str:
        if not self._junit.is_file():
            return ran.last_line()
        counts, failed = read_junit(self._junit)
        return counts + (f"; failed: {', '.join(failed)}" if failed else "")

    def _read_training(self, ran: Ran) -> str:
        path = self._run_folder / "result.json"
        if not path.is_file():
            return ran.last_line()
        result = json.loads(path.read_text(encoding="utf-8"))
        row: dict[str, Any] = {"name": f"b23_wrn_sgd, {TRAINING_EPOCHS} epochs", **result}
        recorder = Recorder(keep_earlier=True)
        recorder.add("training", row)
        recorder.write("training")
        data = result["dataset"] + ("" if result["official"] else " (not the official files)")
        return (
            f"{result['test_accuracy_percent']:.2f} % on {data}, {result['train_seconds']:.1f} s, "
            f"{result['images_per_second']:,.0f} images/s"
        )

    def run(self) -> int:
        """Run the parts; after each of them the page is written anew. Returns the exit code."""
        parts, started = self.parts(), time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start_unpacking()
        paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)
        environment = {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        results: list[Ran] = []
        for part, end in zip(parts, deadlines(parts, self.arguments.seconds), strict=True):
            left = end - (time.monotonic() - started)
            print(f"{part.title}: at most {left:.0f} s", flush=True)
            log = self.scratch / f"{part.name}.log"
            results.append(run_part(part, left, log, environment, ROOT))
            ran = results[-1]
            print(f"  {ran.outcome} in {ran.seconds:.0f} s. {ran.notes}", flush=True)
            if ran.outcome not in ("passed", "left out"):
                print("\n".join(f"  | {line}" for line in ran.log.splitlines()[-25:]), flush=True)
            (self.folder / "gpu_check.md").write_text(page(self.environment, results, self.folder), encoding="utf-8")
        if self._unpacking is not None:
            self._unpacking.wait()
        print(page(self.environment, results, self.folder))
        print(f"written to {self.folder.relative_to(ROOT)}; logs in {self.scratch}")
        return int(any(ran.outcome in ("failed", "out of time") for ran in results))


def find_sanitizer() -> str | None:
    """compute-sanitizer from the PATH or from a CUDA toolkit."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    inside = [f"{home}/{folder}" for home in homes if home for folder in ("bin", "compute-sanitizer")]
    for folder in (None, *inside):
        if found := shutil.which("compute-sanitizer", path=folder):
            return found
    return None


def read_junit(path: Path) -> tuple[str, list[str]]:
    """Counts in words and the names of the tests that failed, from pytest's XML."""
    suite = ElementTree.parse(path).getroot()
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    failed = []
    for case in suite.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
            failed.append(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}")
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    return ", ".join(f"{number} {what}" for what, number in counts.items()), failed


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="parts to run, with commas; all by default")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--data-dir", help="folder with CIFAR-10; default: the usual one, or the tests' images")
    parser.add_argument("--airbench", help="checkout of cifar10-airbench, whose programs run beside ours")
    parser.add_argument("--full", action="store_true", help="benchmarks in full, not in their short form")
    parser.add_argument("--jobs", type=int, default=0, help="processes for the tests; default: most of the processor")
    parser.add_argument("--logs", help="folder for the logs; default: a temporary one, which stays")
    parsed = parser.parse_args(arguments)
    parsed.only = [name.strip() for name in parsed.only.split(",") if name.strip()]
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parsed = parse_arguments(arguments)
    if not torch.cuda.is_available():
        print("gpu_check: torch sees no NVIDIA GPU here", file=sys.stderr)
        return 2
    scratch = Path(parsed.logs).absolute() if parsed.logs else Path(tempfile.mkdtemp(prefix="gpu-check-"))
    scratch.mkdir(parents=True, exist_ok=True)
    return Check(parsed, scratch).run()


if __name__ == "__main__":
    sys.exit(main())
