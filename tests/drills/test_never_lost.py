"""A run is never lost to something that is not training: its console, the user's name, a hang-up, a full disk.

The numbers in names and docstrings are those of the requirements: 1 console, 2 what comes after training, 3 SIGHUP,
4 export on a full disk, 5 features that are all equal.
"""

import contextlib
import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import make_run
from processes import finish, run_inline, start_train

from cifarfast.commands.cli import COMMANDS
from cifarfast.commands.cli import main as cli_main
from cifarfast.inference.score_table import NAME_WIDTH, score_table
from cifarfast.inference.scores import score_predictions
from cifarfast.report import page
from cifarfast.report.features import feature_map
from cifarfast.runs.run_folder import RunFolder
from cifarfast.runtime.console import Console, console, printable
from cifarfast.training import result as result_module
from cifarfast.training.progress_bar import progress_bar
from cifarfast.training.tensorboard import TensorBoardLogger

ROOT = Path(__file__).parents[2]
TINY = ["--dataset=synthetic:classes=3,train=40,test=12", "--arch=linear", "--epochs=1", "--batch-size=8"]
SYNTHETIC = "synthetic:classes=3,train=40,test=12"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in bash, whose exit code is that of a pipe's first part."""
    line = f"{command}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", line], capture_output=True, cwd=ROOT, env=os.environ | environment)


def assert_whole(run: Path) -> None:
    result = RunFolder(run).read_result()
    logits, labels = RunFolder(run).read_predictions()
    assert result["test_accuracy_percent"] == 100 * float((logits.argmax(1) == labels).mean())


# 1: the console


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirections", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("2> /dev/full", 0),
        ("> /dev/full", 1),
        ("| head -4", 0),
        ("2>&1 | head -1", 0),
    ],
)
def test_line_1_training_goes_on_without_a_console(redirections: str, code: int, tmp_path: Path) -> None:
    python = f"{shlex.quote(sys.executable)} -m cifarfast.train"
    arguments = [*TINY, f"--out={tmp_path / 'run'}"]
    done = shell(f"{python} {shlex.join(arguments)} {redirections}")
    assert done.returncode == code, done.stderr
    assert_whole(tmp_path / "run")
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"Exception ignored" not in done.stderr
    if "/dev/full" in redirections and code:
        assert b"standard output could not be written: [Errno 28]" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_line_1_every_command_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    """Training, every --help, and the lists, in a process whose standard output has this encoding."""
    helps = [[name, "--help"] for name in COMMANDS]
    lists = [["--help"], ["models", "lenet"], ["recipes"], ["datasets"], ["env"], ["train", "--print-config"]]
    run = str(tmp_path / "run")
    commands = [["train", *TINY, f"--out={run}"], ["evaluate", run], ["report", "--table", run], *helps, *lists]
    commands += [["nöthing…"], ["train", "--epochs=0", "--recipe=…"]]
    body = (
        "import json, sys\nfrom cifarfast.commands.cli import main\n"
        f"codes = [main(each) for each in {commands!r}]\n"
        f"open({str(tmp_path / 'codes')!r}, 'w').write(json.dumps(codes))\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "codes").read_text()) == [0] * (len(commands) - 2) + [2, 2]
    assert_whole(Path(run))
    text = done.stdout.decode(encoding)
    assert "epoch   1 | train loss" in text
    assert "32x32x3" in text if encoding == "ascii" else "32×32×3" in text
    assert done.stderr.count(b"\n") == 2, "a line for each mistake"


class Terminal(io.TextIOWrapper):
    """A terminal that keeps what is written on it, or has gone away."""

    def __init__(self, encoding: str = "ascii", *, gone: bool = False) -> None:
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding=encoding, write_through=True)
        self.gone = gone

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)

    @property
    def shown(self) -> str:
        return self.raw_bytes.getvalue().decode(self.encoding)


@pytest.mark.parametrize("gone", [False, True])
def test_line_1_the_progress_bar(gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(gone=gone)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with console(), progress_bar(total=10) as bar:
        bar.set_description("epoch 1 … │")
        bar.update(5)
        bar.refresh()
        bar.write("epoch 1 │ ± – ≠")
        assert not bar.disable
    if not gone:
        assert "\repoch 1 ... |" in terminal.shown
        assert "epoch 1 | +/- - !=\n" in terminal.shown
        assert "\\r" not in terminal.shown


def test_line_1_substitutes_only_what_the_encoding_lacks() -> None:
    text = "│ … ± ≠ – × 猫 é"
    shown = {}
    for encoding in ("ascii", "cp1252", "utf-8"):
        terminal = Terminal(encoding)
        Console(terminal).write(text)
        shown[encoding] = terminal.shown
    assert shown["ascii"] == r"| ... +/- != - x \u732b \xe9"
    assert shown["cp1252"] == r"| … ± != – × \u732b é"
    assert shown["utf-8"] == text


@pytest.mark.parametrize("stream", [None, Terminal(gone=True)])
def test_line_1_a_stream_that_takes_nothing_raises_nothing(stream: Terminal | None) -> None:
    out = Console(stream)
    out.write("text")
    out.flush()
    assert (out.lost is None) == (stream is None)
    closed = io.StringIO()
    closed.close()
    out = Console(closed)
    out.write("text")
    assert not out.isatty()
    assert isinstance(out.lost, ValueError)


EVIL = "cat\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e"


def test_line_1_control_characters_in_names_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_main([EVIL]) == 2
    assert cli_main(["evaluate", str(tmp_path / EVIL)]) == 2
    run = make_run(tmp_path / EVIL, dataset=SYNTHETIC)
    assert cli_main(["report", "--table", str(run.path)]) == 0
    out, err = capsys.readouterr()
    for character in EVIL[3:4] + "\x07\x9b\u202e\r":
        assert character not in out + err
    assert r"cat\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e" in out
    assert err.count("\n") == 2


def test_line_1_a_long_class_name_does_not_widen_the_tables() -> None:
    labels = np.arange(40) % 4
    logits = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    ordinary = score_table(score_predictions(logits, labels, ["a", "b" * 12, "c" * 24, "d"]))
    hostile = score_table(score_predictions(logits, labels, ["a", "b" * 400, "c\n\x1b[31m" + "c" * 400, "d"]))
    assert max(map(len, hostile.splitlines())) == max(map(len, ordinary.splitlines()))
    assert len(hostile.splitlines()) == len(ordinary.splitlines())
    assert "\x1b" not in hostile
    assert "b" * (NAME_WIDTH - 1) + "…" in hostile
    assert printable("b" * NAME_WIDTH, NAME_WIDTH) == "b" * NAME_WIDTH


# 2: what comes after training cannot undo it


@pytest.mark.slow
def test_line_2_a_user_without_a_name_and_a_home(tmp_path: Path) -> None:
    arguments = [*TINY, f"--out={tmp_path / 'run'}"]
    body = (
        "import pwd, sys\n"
        "def nobody(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = nobody\n"
        "from cifarfast.commands.train import main\n"
        f"sys.exit(main({arguments!r}))\n"
    )
    nameless = {k: v for k, v in os.environ.items() if k not in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME")}
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, cwd=ROOT, env=nameless)
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_result()["macs"] == 32 * 32 * 3 * 3


def test_line_2_macs_that_cannot_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(result_module, "count_macs", broken)
    done = run_inline([*TINY, f"--out={tmp_path / 'run'}"])
    assert done.code == 0
    assert done.stderr == "cifarfast: the MACs of linear are not counted: NotImplementedError: no meta kernel\n"
    assert "9,219 parameters\n" in done.stdout
    assert_whole(tmp_path / "run")
    assert "macs" not in RunFolder(tmp_path / "run").read_result()
    monkeypatch.undo()
    assert "9,219" in page.render(page.load_runs([tmp_path / "run"])[0], None, [])


def test_line_2_an_ensemble_of_runs_without_macs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, dataset=SYNTHETIC, seed=seed) for seed, name in enumerate("ab")]
    result = runs[0].read_result()
    del result["macs"]
    runs[0].write_result(result)
    out = tmp_path / "ensemble"
    assert cli_main(["ensemble", *(str(run.path) for run in runs), "--weights=equal", f"--out={out}"]) == 0
    assert "macs" not in RunFolder(out).read_result()
    assert cli_main(["report", "--table", str(out)]) == 0


def test_line_2_what_can_fail_for_other_reasons_fails_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[str]:
        raise RuntimeError("a packaged recipe was edited meanwhile")

    monkeypatch.setattr(result_module, "changed_settings", broken)
    with pytest.raises(RuntimeError, match="edited"):
        run_inline([*TINY, f"--out={tmp_path / 'run'}"])
    assert RunFolder(tmp_path / "run").checkpoints.exists() is False


def test_line_2_a_table_that_cannot_be_formatted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(result: object) -> str:
        assert_whole(tmp_path / "run")
        raise KeyError("a column")

    monkeypatch.setattr("cifarfast.commands.train.summary", broken)
    done = run_inline([*TINY, f"--out={tmp_path / 'run'}"])
    assert (done.code, done.stderr) == (0, "cifarfast: the run is saved; its summary failed: KeyError: 'a column'\n")
    assert_whole(tmp_path / "run")


def test_line_2_a_working_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifarfast.runs.environment import command

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert command("report").endswith(" -m cifarfast.report")


def test_line_2_tensorboard_that_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = TensorBoardLogger(tmp_path / "events", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log._writer.add_scalar = full
    for epoch in (1, 2):
        log.add({"epoch": epoch, "train_loss": 1.0}, {"epoch": epoch, "images": 3})
    log.close()
    assert capsys.readouterr().err == ("cifarfast: going on without TensorBoard: [Errno 28] No space left on device\n")


# 3: SIGHUP; that it saves and exits with 129 is in tests/training/test_resume.py


@dataclass(frozen=True)
class UnderNohup:
    """A ``prepare`` that does what nohup does."""

    def __call__(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.slow
def test_line_3_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [*TINY, "--epochs=60", f"--out={run}", "--quiet"]
    process = start_train(arguments, tmp_path / "log", prepare=UnderNohup())
    until = time.monotonic() + 60
    while not ((run / "metrics.csv").exists() and (run / "metrics.csv").stat().st_size):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGHUP)
    done = finish(process, tmp_path / "log")
    assert done.code == 0, done.stderr
    assert RunFolder(run).read_result()["epochs"] == 60


# 4: export on a full disk


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow above ``size`` bytes: a write above it fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["torch-export", "onnx"])
def test_line_4_export_on_a_full_disk(file_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", dataset=SYNTHETIC)
    before = sorted(path.name for path in run.path.iterdir())
    with largest_file(30_000):
        assert cli_main(["export", str(run.path), f"--format={file_format}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cifarfast: cannot write ")
    assert err.count("\n") == 1
    assert sorted(path.name for path in run.path.iterdir()) == before
    assert cli_main(["export", str(run.path), f"--format={file_format}"]) == 0


# 5: features that are all equal


def map_of(features: np.ndarray) -> str:
    labels = np.arange(len(features)) % 3
    return feature_map(features.astype(np.float32), labels, labels, ["a", "b", "c"])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, float("nan"), float("inf")])
def test_line_5_equal_features_have_no_map(value: float) -> None:
    """t-SNE's native code ends the process where the first principal component has no spread."""
    with pytest.raises(ValueError, match=r"equal|not finite"):
        map_of(np.full((60, 8), value))


@pytest.mark.parametrize("scale", [1e-43, 1e-20, 1.0, 1e20, 1e38])
def test_line_5_a_map_does_not_depend_on_the_scale(scale: float) -> None:
    features = np.random.default_rng(0).normal(size=(20, 6)) / 10
    assert "<svg" in map_of(features * scale)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("living", [1, 2])
def test_line_5_few_living_units(living: int) -> None:
    features = np.zeros((20, 6))
    features[0, :living] = 1
    assert "<svg" in map_of(features)


def test_line_5_the_report_of_a_dead_network_has_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: object, indices: object, precision: str) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((12, 84), np.float32), np.zeros(12, np.int64)

    monkeypatch.setattr(page, "penultimate_features", dead)
    make_run(tmp_path / "run", dataset=SYNTHETIC)
    written = page.write_report([tmp_path / "run"])
    assert any("no map of features of run: the features of all images are equal" in note for note in written.notes)
    assert written.path.exists()
