"""All that needs an NVIDIA GPU, in one command of at most nine minutes: ``make gpu-check``.

``python -m bench.gpu_check [--only tests,ops] [--seconds 530] [--data-dir DIR] [--airbench PATH]`` from the checkout's
root; nothing has to be installed but what cifarfast needs, and nothing is fetched. It builds csrc/, runs the tests that
are marked ``gpu``, the training step's benchmark, a short training, the other benchmarks, and every kernel under
compute-sanitizer, in this order: what matters most comes first, and each part has its time.

Results go to ``bench/results/<device>/*.json`` as they come, and ``gpu_check.md`` beside them is one page that ends
with the targets that were missed. With ``--bundle FILE`` all of that and the logs are in one archive, made anew after
each part. The exit code is 1 when a part failed or had no time to end; a missed target is not a failure.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.gpu_tools import BUILD, bundle, find_sanitizer, read_junit
from bench.parts import Part, Ran, deadlines, run_part
from bench.pytest_gpu import START_AGAIN
from bench.record import FOLDER, Recorder, device_folder, session_environment
from bench.summary import page

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 530.0
TRAINING_EPOCHS = 10
# of one test, most of which take a second; what takes longer waits for something that will not come
TEST_SECONDS = 75
PLUGINS = ("-p", "bench.pytest_gpu", "-p", "no:cacheprovider")
# where a program hangs is in the log long before its time is over
PYTEST = [sys.executable, "-m", "pytest", *PLUGINS, "-q", "-rfE", "--tb=short", "-o", "faulthandler_timeout=60"]


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
        self._compiling: subprocess.Popen[bytes] | None = None

    def parts(self) -> list[Part]:
        """Those asked for, in the order of their importance."""
        compiled = {"CIFARFAST_BUILD_CUDA": "1"}
        known = [
            Part("build", "build csrc/ with CUDA", 40, self._build, compiled),
            Part(
                "tests",
                "tests marked gpu",
                150,
                self._tests,
                self._for_many_processes(),
                self._read_tests,
                start_again=START_AGAIN,
            ),
            self._benchmark("train_step", "training step", 185, "train_step", "-s", "-k", "test_step"),
            Part("training", f"{TRAINING_EPOCHS} epochs of WRN-16-8", 40, self._training, read=self._read_training),
            self._benchmark("augment", "augmentation", 20, "augment"),
            self._benchmark("ops", "fused ops", 60, "ops"),
            Part("memcheck", "memory checker", 40, self._memcheck, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
        ]
        if self.arguments.airbench:
            peers = ["-s", "-k", "test_peer", f"--airbench={Path(self.arguments.airbench).absolute()}"]
            known.append(self._benchmark("peers", "airbench's programs", 200, "train_step", *peers))
        chosen = self.arguments.only
        unknown = set(chosen) - {part.name for part in known}
        if unknown:
            names = ", ".join(part.name for part in known)
            raise SystemExit(f"gpu_check: no part {', '.join(sorted(unknown))}; there are {names}")
        return [part for part in known if not chosen or part.name in chosen]

    # commands

    def _build(self) -> list[str]:
        return [sys.executable, "-c", BUILD, str(ROOT / "csrc"), str(self.scratch / "build")]

    def _tests(self) -> list[str]:
        command = [*PYTEST, "-m", "gpu", "--widest-first", "--durations=15"]
        command += ["--continue-on-collection-errors", f"--junitxml={self._junit}", *self._parallel()]
        if importlib.util.find_spec("pytest_timeout") is not None:
            command += [f"--timeout={TEST_SECONDS}", "--timeout-method=thread"]
        return [*command, "tests"]

    @property
    def _junit(self) -> Path:
        return self.scratch / "tests.xml"

    @property
    def _jobs(self) -> int:
        """Processes for the tests: most of their time is the compilation of small kernels."""
        if importlib.util.find_spec("xdist") is None:
            return 1
        return self.arguments.jobs or max(1, min(12, (os.cpu_count() or 1) - 4))

    def _parallel(self) -> list[str]:
        if self._jobs == 1:
            return ["-p", "no:xdist", f"--done={self.scratch / 'tests.done'}"]
        # one by one in their order; a process that a kernel has broken is replaced however often
        return ["-n", str(self._jobs), "--dist", "load", "--maxschedchunk", "1", "--max-worker-restart", "1000"]

    def _for_many_processes(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"} if self._jobs > 1 else {}

    def _benchmark(self, name: str, title: str, weight: float, suite: str, *options: str) -> Part:
        command = [*PYTEST, f"bench/test_{suite}.py", "--benchmark-enable", "--save-each", "-p", "no:xdist"]
        command += [f"--done={self.scratch / name}.done", *options, *([] if self.arguments.full else ["--short"])]
        return Part(name, title, weight, lambda: command, start_again=START_AGAIN)

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
        self._unpacking = self._beside(command, "unpacking", ROOT / "tests")

    def start_compiling(self) -> None:
        """Have the step's kernels compiled while csrc is built and the tests run, before the step is measured."""
        self._compiling = self._beside([sys.executable, "-m", "bench.train_step.ahead"], "ahead")

    def stop_compiling(self) -> None:
        """End that: nothing may run beside what is measured."""
        if self._compiling is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._compiling.pid, signal.SIGKILL)
            self._compiling.wait()
            self._compiling = None

    def _beside(self, command: list[str], name: str, *folders: Path) -> "subprocess.Popen[bytes]":
        """Start a program beside the parts, its output in a log."""
        paths = os.pathsep.join([*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH", "")])
        with (self.scratch / f"{name}.log").open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _memcheck(self) -> list[str] | str:
        sanitizer = find_sanitizer()
        if sanitizer is None:
            return "compute-sanitizer is neither on the PATH nor in the CUDA toolkit"
        command = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", "--print-limit", "400"]
        # libraries ask CUDA for what it may refuse
        command += ["--report-api-errors", "no"]
        # the kernels after a wrong one are checked too; the host's stack would only show Python's interpreter
        command += ["--destroy-on-device-error", "kernel", "--show-backtrace", "no"]
        return [*command, sys.executable, "-m", "bench.memcheck"]

    # what they found

    def _read_tests(self, ran: Ran) -> str:
        if not self._junit.is_file():
            return ran.last_line()
        counts, failed = read_junit(self._junit)
        ended = re.findall(r"^\d+ of \d+ tests ended$", ran.log, re.MULTILINE)
        return "; ".join([counts, *ended[-1:], *([f"failed: {', '.join(failed)}"] if failed else [])])

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

    def _write_page(self, results: Sequence[Ran]) -> str:
        """The page of what there is so far, and the archive; neither may end the check."""
        try:
            text = page(self.environment, results, self.folder)
            (self.folder / "gpu_check.md").write_text(text, encoding="utf-8")
        except Exception:
            text = f"no page:\n{traceback.format_exc()}"
        if self.arguments.bundle:
            try:
                bundle(Path(self.arguments.bundle), {"results": self.folder, "logs": self.scratch})
            except OSError as error:
                text += f"\nno archive: {error}\n"
        return text

    def _forget(self) -> None:
        """Remove what an earlier check left in the folder for logs that would pass for this one's."""
        for path in (*self.scratch.glob("*.done"), self._junit):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._run_folder, ignore_errors=True)

    def run(self) -> int:
        """Run the parts; after each of them the page is written anew. Returns the exit code."""
        parts, started = self.parts(), time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._forget()
        self.start_unpacking()
        if {"tests", "train_step"} <= {part.name for part in parts}:
            self.start_compiling()
        paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)
        environment = {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        results: list[Ran] = []
        for part, end in zip(parts, deadlines(parts, self.arguments.seconds), strict=True):
            left = end - (time.monotonic() - started)
            print(f"{part.title}: at most {left:.0f} s", flush=True)
            log = self.scratch / f"{part.name}.log"
            if part.name not in ("build", "tests"):
                self.stop_compiling()
            results.append(run_part(part, left, log, environment, ROOT))
            ran = results[-1]
            print(f"  {ran.outcome} in {ran.seconds:.0f} s. {ran.notes}", flush=True)
            if ran.outcome not in ("passed", "left out"):
                print("\n".join(f"  | {line}" for line in ran.log.splitlines()[-25:]), flush=True)
            self._write_page(results)
        self.stop_compiling()
        if self._unpacking is not None:
            self._unpacking.wait()
        print(self._write_page(results))
        print(f"written to {self.folder.relative_to(ROOT)}; logs in {self.scratch}")
        return int(any(ran.outcome in ("failed", "out of time") for ran in results))


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
    parser.add_argument("--bundle", help="archive (.tar.gz) of results and logs, made anew after each part")
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
