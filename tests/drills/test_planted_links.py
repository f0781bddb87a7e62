"""Line 7: a link that somebody planted in a run folder does not make us write to the file that it names."""

import os
import shutil
from pathlib import Path

import pytest
from made_up_runs import leave_figures_undrawn
from mistakes import Fails
from processes import run_inline
from test_never_lost import largest_file

from cifarfast.commands import cli
from cifarfast.errors import UserError
from cifarfast.runs.storage import folder_lock, remove_temporaries, write_atomic, write_new

TINY = ["--dataset=synthetic:classes=3,train=40,test=12", "--arch=linear", "--batch-size=8", "--quiet"]
WRITTEN = ("config.toml", "environment.json", "metrics.csv", "timing.csv", "predictions.npz", "result.json")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def test_line_7_names_that_can_be_foreseen(victim: Path, tmp_path: Path) -> None:
    """Temporary files have had these names; a link of that name in the folder stays what it is."""
    run = tmp_path / "run"
    run.mkdir()
    for name in WRITTEN:
        (run / f".{name}.tmp").symlink_to(victim)
    assert run_inline([*TINY, "--epochs=1", f"--out={run}"]).code == 0
    assert victim.read_text() == "precious"


def test_line_7_links_in_place_of_what_is_written(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming and reporting replace a link; what it names is neither changed nor, where it is missing, made."""
    leave_figures_undrawn(monkeypatch)
    run = tmp_path / "run"
    assert run_inline([*TINY, "--epochs=1", f"--out={run}"]).code == 0
    whole = (run / "config.toml").read_bytes()
    for name in ("environment.json", "metrics.csv", "timing.csv", "predictions.npz", "result.json"):
        (run / name).unlink()
        (run / name).symlink_to(victim)
    (run / "report.html").symlink_to(tmp_path / "made")
    (run / "checkpoints" / ".new-step-1").symlink_to(victim)
    (run / "checkpoints" / ".step-1").symlink_to(tmp_path)
    (run / "environment.json").unlink()
    assert run_inline([*TINY, "--epochs=1", f"--out={run}", "--resume"]).code == 0
    assert cli.main(["report", str(run)]) == 0
    assert victim.read_text() == "precious"
    assert not (tmp_path / "made").exists()
    for name in (*WRITTEN, "report.html"):
        assert not (run / name).is_symlink()
    assert (run / "config.toml").read_bytes() == whole


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_line_7_a_lock_that_is_no_file(kind: str, victim: Path, tmp_path: Path, fails: Fails) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lock = run / ".lock"
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(victim if kind == "link" else tmp_path / "made")
    assert "is a link or no file: remove it" in fails("train", *TINY, f"--out={run}", out=None)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "made").exists()


def test_line_7_a_lock_is_not_truncated(victim: Path, tmp_path: Path) -> None:
    """A hard link is a file like any other: nothing is written to it."""
    os.link(victim, tmp_path / ".lock")
    with folder_lock(tmp_path), pytest.raises(UserError, match="another process"), folder_lock(tmp_path):
        pass
    assert victim.read_text() == "precious"


def test_line_7_checkpoints_elsewhere(tmp_path: Path, fails: Fails) -> None:
    """Behind a link may lie the checkpoints of another run, of which all but the two newest would be removed."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    assert run_inline([*TINY, "--epochs=1", f"--out={run}"]).code == 0
    shutil.rmtree(run / "checkpoints")
    elsewhere.mkdir()
    (elsewhere / ".step-000000001").touch()  # as of a process that was killed
    (run / "checkpoints").symlink_to(elsewhere)
    assert "checkpoints is a link" in fails("train", *TINY, "--epochs=1", f"--out={run}", "--resume", out=None)
    assert [path.name for path in elsewhere.iterdir()] == [".step-000000001"]


def test_line_7_a_new_file_is_new(victim: Path, tmp_path: Path) -> None:
    for path in (victim, tmp_path / "link", tmp_path / "dangling"):
        if path != victim:
            path.symlink_to(victim if path.name == "link" else tmp_path / "made")
        with pytest.raises(FileExistsError):
            write_new(path, b"new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "made").exists()
    write_atomic(tmp_path / "link", "new")
    assert (victim.read_text(), (tmp_path / "link").read_text()) == ("precious", "new")


def test_line_7_what_a_killed_process_left_is_removed(victim: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".metrics.csv.0123456789abcdef.tmp").write_text("half")
    (folder / ".x.fedcba9876543210.tmp").symlink_to(victim)
    kept = (".lock", "metrics.csv", ".metrics.csv.tmp", ".x.0123456789abcdef", "x.0123456789abcdef.tmp")
    for name in kept:
        (folder / name).touch()
    remove_temporaries(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)
    assert victim.read_text() == "precious"


def test_line_7_nonfinite_json_on_a_full_disk(tmp_path: Path) -> None:
    settings = [
        "--dataset=synthetic:classes=3,train=6000,test=12,size=8",
        "--arch=linear",
        "--batch-size=3000",
        "--quiet",
    ]
    with largest_file(14_000):
        done = run_inline([*settings, "--epochs=9", "--lr=1e38", "--momentum=0", f"--out={tmp_path / 'run'}"])
    assert done.code == 2
    assert done.stderr.startswith("cifarfast: cannot write ")
    assert "nonfinite.json: the file is larger than the file-size limit allows" in done.stderr
    assert done.stderr.count("\n") == 1
