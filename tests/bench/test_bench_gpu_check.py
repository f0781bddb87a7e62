"""The check of a GPU without one: its parts, their time, and the page."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_check
from bench.gpu_check import Check, parse_arguments
from bench.gpu_tools import bundle, find_sanitizer, read_junit
from bench.parts import Part, Ran, deadlines, run_part
from bench.summary import page

ROOT = Path(__file__).resolve().parents[2]
GPU = {"name": "NVIDIA H200", "cuda": "13.0", "cudnn": 91000, "memory_bytes": 1, "capability": "9.0"}
ENVIRONMENT = {"gpu": GPU, "commit": "abc", "python": "3.12.3", "packages": {"torch": "2.11.0", "timm": None}}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def ran(part: Part, tmp_path: Path, seconds: float = 30.0) -> Ran:
    return run_part(part, seconds, tmp_path / "log", {"GREETING": "hello"}, tmp_path)


# parts


def test_outcomes_of_parts(tmp_path: Path) -> None:
    code = "import os; print(os.environ['GREETING'], os.environ['OWN'], os.getcwd())"
    good = ran(Part("good", "", 1, lambda: python(code), {"OWN": "own"}), tmp_path)
    assert (good.outcome, good.notes) == ("passed", f"hello own {tmp_path}")
    bad = ran(Part("bad", "", 1, lambda: python("print('oh'); raise SystemExit(3)")), tmp_path)
    assert (bad.outcome, bad.notes) == ("failed", "oh")
    absent = ran(Part("absent", "", 1, lambda: "no such thing here"), tmp_path)
    assert (absent.outcome, absent.notes, absent.seconds) == ("left out", "no such thing here", 0.0)


@pytest.mark.slow
def test_a_part_out_of_time_writes_what_it_has(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        "print('started', flush=True)\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    pathlib.Path('partial').write_text('half'); print('interrupted')"
    )
    late = ran(Part("late", "", 1, lambda: python(code)), tmp_path, seconds=8.0)
    assert late.outcome == "out of time"
    assert (tmp_path / "partial").read_text() == "half"
    assert late.notes == "interrupted"
    assert late.seconds < 20


@pytest.mark.slow
def test_a_part_that_does_not_listen_is_killed_with_its_children(tmp_path: Path) -> None:
    child = "import time, pathlib; time.sleep(6); pathlib.Path('late').touch()"
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print('deaf', flush=True); time.sleep(60)"
    )
    started = time.monotonic()
    assert ran(Part("deaf", "", 1, lambda: python(code)), tmp_path, seconds=3.0).outcome == "out of time"
    assert time.monotonic() - started < 5
    time.sleep(max(0.0, 6.5 - (time.monotonic() - started)))
    assert not (tmp_path / "late").exists()


def test_what_a_part_leaves_cannot_end_the_check(tmp_path: Path) -> None:
    def unreadable(ran: Ran) -> str:
        raise ValueError("half a file")

    torn = ran(Part("torn", "", 1, lambda: python("print('done')"), read=unreadable), tmp_path)
    assert torn.outcome == "passed"
    assert torn.notes == "done (its results cannot be read: ValueError('half a file'))"

    def impossible() -> list[str]:
        raise OSError("no such data")

    never = ran(Part("never", "", 1, impossible), tmp_path)
    assert (never.outcome, never.notes) == ("failed", "it could not be started: OSError('no such data')")
    assert "Traceback" in never.log


def test_a_part_that_asks_for_it_is_started_again_within_its_time(tmp_path: Path) -> None:
    code = (
        "import pathlib\n"
        "count = len(list(pathlib.Path().glob('run*')))\n"
        "pathlib.Path(f'run{count}').touch(); print('run', count)\n"
        "raise SystemExit(77 if count < 2 else 0)"
    )
    part = Part("again", "", 1, lambda: python(code), start_again=77)
    repeated = ran(part, tmp_path)
    assert (repeated.outcome, repeated.log) == ("failed", "run 0\nrun 1\nrun 2\n")
    for path in tmp_path.glob("run*"):
        path.unlink()
    assert ran(part, tmp_path, seconds=5.0).log == "run 0\n"  # too little is left
    assert ran(Part("never", "", 1, lambda: python(code)), tmp_path).log == "run 1\n"


def test_deadlines_add_up() -> None:
    parts = [Part(name, "", weight, lambda: "") for name, weight in (("a", 1), ("b", 3))]
    assert deadlines(parts, 100) == [25, 100]


# the check


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setattr(gpu_check, "session_environment", lambda: ENVIRONMENT)
    monkeypatch.setattr(gpu_check, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(Check, "start_unpacking", lambda self: None)
    (tmp_path / "scratch").mkdir()
    return Check(parse_arguments(["--jobs", "1"]), tmp_path / "scratch")


def run_parts(check: Check, monkeypatch: pytest.MonkeyPatch, *parts: Part) -> int:
    monkeypatch.setattr(Check, "parts", lambda self: parts)
    return check.run()


FINE = Part("one", "first part", 1, lambda: python("print('fine')"))
ABSENT = Part("three", "third part", 1, lambda: "not here")


def names(check: Check, *arguments: str) -> list[str]:
    check.arguments = parse_arguments(arguments)
    return [part.name for part in check.parts()]


def test_which_parts_run_and_in_which_order(check: Check) -> None:
    everything = ["build", "tests", "train_step", "training", "augment", "ops", "memcheck"]
    assert names(check) == everything
    assert names(check, "--only", "ops, tests") == ["tests", "ops"]
    assert names(check, "--airbench", "peers") == [*everything, "peers"]
    with pytest.raises(SystemExit, match="no part opps; there are build, tests"):
        names(check, "--only", "opps")

    check.arguments = parse_arguments([])
    assert deadlines(check.parts(), check.arguments.seconds)[-1] <= 540


def test_commands(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {part.name: part.command() for part in check.parts() if part.name != "training"}
    assert " ".join(commands["tests"][1:]).startswith("-m pytest -p bench.pytest_gpu ")
    assert "-m gpu --widest-first" in " ".join(commands["tests"])
    assert "no:xdist" in commands["tests"]
    assert "--short" in commands["train_step"]
    check.arguments = parse_arguments(["--full", "--jobs", "3"])
    commands = {part.name: part.command() for part in check.parts() if part.name in ("tests", "ops")}
    assert "--short" not in commands["ops"]
    assert commands["tests"][commands["tests"].index("-n") + 1] == "3"
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert "compute-sanitizer" in check._memcheck()
    assert isinstance(check._memcheck(), str)


def test_programs_that_are_started_again_know_what_is_done(check: Check) -> None:
    for part in check.parts():
        command = part.command()
        again = [option for option in command if option.startswith("--done=")]
        assert bool(again) == (part.start_again is not None), part.name
    check.arguments = parse_arguments(["--jobs", "3"])
    (tests,) = (part for part in check.parts() if part.name == "tests")
    assert not [option for option in tests.command() if option.startswith("--done=")]  # xdist does that


def test_the_build_says_what_the_compilers_say(check: Check, tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "bindings.cpp").write_text("#error that is no code\n")
    (tmp_path / "package").mkdir()
    command = check.parts()[0].command()
    lines = (
        "import sys, pathlib; from cifarfast.runtime import native_build; "
        "native_build._PACKAGE = pathlib.Path('package').absolute();"
        "native_build._loaded = None; exec(sys.argv[3])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CIFARFAST_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", lines, str(tmp_path / "csrc"), str(tmp_path / "build"), command[2]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "#error that is no code" in done.stdout


def test_data_of_the_training(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tmp_path / "data"
    monkeypatch.setenv("CIFARFAST_DATA", str(usual))
    assert "synthetic:train=50000" in check._training()
    (tmp_path / ".cache" / "data" / "cifar-10-batches-py").mkdir(parents=True)
    assert check._training()[-2:] == ["--data-dir", str(tmp_path / ".cache" / "data")]
    (usual / "cifar-10-batches-py").mkdir(parents=True)
    assert check._training()[-2:] == ["--data-dir", str(usual)]
    check.arguments = parse_arguments(["--data-dir", "/mine"])
    assert check._training()[-2:] == ["--data-dir", "/mine"]


def test_the_training_s_result_is_kept(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.record.session_environment", lambda: ENVIRONMENT)
    original = gpu_check.Recorder.__init__
    monkeypatch.setattr(gpu_check.Recorder, "__init__", lambda self, **settings: original(self, tmp_path, **settings))
    check._run_folder.mkdir()
    result = {"test_accuracy_percent": 88.8, "dataset": "cifar10", "official": False, "train_seconds": 12.0}
    (check._run_folder / "result.json").write_text(json.dumps({**result, "images_per_second": 41_000.0}))
    part = next(part for part in check.parts() if part.name == "training")
    notes = part.read(Ran(part, "passed", 1.0, ""))
    assert notes == "88.80 % on cifar10 (not the official files), 12.0 s, 41,000 images/s"
    (row,) = json.loads((tmp_path / "nvidia-h200" / "training.json").read_text())["rows"]
    assert row["test_accuracy_percent"] == 88.8


def test_a_whole_check(check: Check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Part("two", "second part", 1, lambda: python("print('a | b'); raise SystemExit(1)"))
    earlier = [check.scratch / "ops.done", check.scratch / "tests.xml", check.scratch / "run" / "result.json"]
    earlier[2].parent.mkdir()
    for path in earlier:
        path.touch()
    assert run_parts(check, monkeypatch, FINE, bad, ABSENT) == 1
    assert not any(path.exists() for path in earlier)
    text = (check.folder / "gpu_check.md").read_text()
    for row in (
        "first part | passed | 0 | fine",
        "second part | failed | 0 | a / b",
        "third part | left out | 0 | not here",
    ):
        assert f"| {row} |" in text
    assert text.splitlines()[0] == "# Check on NVIDIA H200, CUDA 13.0, cuDNN 91000"
    assert text in capsys.readouterr().out
    assert run_parts(check, monkeypatch, FINE, ABSENT) == 0


def test_a_page_that_cannot_be_made_does_not_end_the_check(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check.folder.mkdir(parents=True)
    (check.folder / "train_step.json").write_text("{ half")
    assert run_parts(check, monkeypatch, ABSENT) == 0
    assert "JSONDecodeError" in check._write_page([])


def test_the_archive_has_results_and_logs(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check.arguments = parse_arguments(["--bundle", str(tmp_path / "out" / "all.tar.gz")])
    (check.scratch / "run").mkdir()
    (check.scratch / "run" / "weights.safetensors").write_bytes(b"much")
    run_parts(check, monkeypatch, FINE)
    with tarfile.open(tmp_path / "out" / "all.tar.gz") as archive:
        assert archive.getnames() == ["results/gpu_check.md", "logs/one.log"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all.tar.gz"]
    bundle(tmp_path / "none.tar.gz", {"nothing": tmp_path / "absent"})
    check.arguments = parse_arguments(["--bundle", str(check.scratch / "one.log" / "all.tar.gz")])
    assert "no archive" in check._write_page([])


def test_nothing_runs_beside_what_is_measured(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def alive(name: str) -> list[str]:
        seen.append((name, check._compiling is not None and check._compiling.poll() is None))
        return python("")

    parts = [Part(name, name, 1, lambda name=name: alive(name)) for name in ("build", "tests", "train_step", "ops")]

    def start_compiling(self: Check) -> None:
        self._compiling = self._beside(python("import time; time.sleep(60)"), "ahead")

    monkeypatch.setattr(Check, "start_compiling", start_compiling)
    started = time.monotonic()
    assert run_parts(check, monkeypatch, *parts) == 0
    assert time.monotonic() - started < 40
    assert seen == [("build", True), ("tests", True), ("train_step", False), ("ops", False)]
    seen.clear()
    run_parts(check, monkeypatch, parts[0], *parts[2:])
    assert seen == [("build", False), ("train_step", False), ("ops", False)]


def test_the_memory_checker_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    program = tmp_path / "compute-sanitizer" / "compute-sanitizer"
    program.parent.mkdir()
    program.touch(mode=0o755)
    assert find_sanitizer() == str(program)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().err == "gpu_check: torch sees no NVIDIA GPU here\n"


def test_counts_of_tests(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="tests.test_step" name="a"/>'
        '<testcase classname="tests.test_step" name="b[x]"><failure message="no"/></testcase>'
        '<testcase classname="tests.test_step" name="c"><error message="no"/></testcase>'
        '<testcase classname="tests.test_step" name="c"><error message="its process too"/></testcase>'
        '<testcase classname="tests.test_step" name="d"><skipped/></testcase></testsuite></testsuites>'
    )
    assert read_junit(path) == ("1 passed, 2 failed, 1 skipped", ["test_step::b[x]", "test_step::c"])


def test_page_with_a_training_step(tmp_path: Path) -> None:
    row = {
        "name": "wrn16_8 sgd 512 | cifarfast",
        "contender": "cifarfast",
        "arch": "wrn16_8",
        "optimizer": "sgd",
        "batch": 512,
        "dropout": False,
        "images_per_second": 6e4,
        "times_as_long_as_cifarfast": 1.0,
        "step_ms": {"p20": 7.9, "median": 8.0, "p80": 8.2},
        "peak_memory_bytes": 4e9,
        "kernels_per_step": 300.0,
        "percent_of_floor": {"nominal_h200": {"a": 123.0, "b": 105.0, "c": 83.0}},
        "share_between_steps": 0.004,
        "top_kernels": [{"name": "conv|kernel", "calls": 16.0, "microseconds": 4000.0}],
    }
    (tmp_path / "train_step.json").write_text(json.dumps({"environment": ENVIRONMENT, "rows": [row]}))
    text = page(ENVIRONMENT, [], tmp_path)
    assert "| `wrn16_8` | SGD, 512 | cifarfast | 60,000 | 8.00 (7.90 … 8.20) | 1.00 | 300 | 4.00 | 105 |" in text
    assert "wrn16_8 sgd 512: conv/kernel 50 % (16)" in text
    assert "2 of 16 targets reached." in text
    assert text.index("## Targets") > text.index("## Training step")
