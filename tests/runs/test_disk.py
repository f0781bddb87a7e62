"""Disk full, read-only folder, foreign or damaged checkpoints, two runs in one folder: a clear line, nothing lost."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import AnotherUser, KillAtCall, finish, run_inline, start_train, train

from cifarfast.errors import UserError
from cifarfast.runs.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from cifarfast.runs.storage import folder_lock, write_atomic

SETTINGS = ["--dataset=synthetic:classes=3,train=64,test=12", "--arch=mlp100", "--batch-size=16", "--quiet"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB: room for two checkpoints of mlp100 (2.4 MB each), not for three."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_disk_full_keeps_what_was_there_and_resumes_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    run = small_disk / "run"
    done = train([*SETTINGS, "--epochs=3", "--checkpoint-seconds=0", f"--out={run}"], tmp_path / "log")
    assert done.code == 2
    assert "the disk is full" in done.stderr
    assert done.stderr.count("\n") == 1
    kept = checkpoint_folders(run / "checkpoints")
    assert kept
    assert all(load_checkpoint(path) for path in kept)
    assert not list((run / "checkpoints").glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert train([*SETTINGS, "--epochs=3", f"--out={run}", "--resume"], tmp_path / "log").code == 0
    assert train([*SETTINGS, "--epochs=3", f"--out={tmp_path / 'whole'}"], tmp_path / "log").code == 0
    assert (run / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_read_only_folder(small_disk: Path, tmp_path: Path) -> None:
    run = small_disk / "run"
    assert train([*SETTINGS, "--epochs=1", f"--out={run}"], tmp_path / "log").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = contents(run)
    for arguments in ([f"--out={small_disk / 'new'}"], [f"--out={run}", "--resume"]):
        done = train([*SETTINGS, "--epochs=1", *arguments], tmp_path / "log")
        assert done.code == 2
        assert "the file system is read-only: choose another folder with --out" in done.stderr
        assert done.stderr.count("\n") == 1
    assert contents(run) == before


@pytest.mark.skipif(os.getuid() != 0, reason="giving up root's rights needs root")
@pytest.mark.parametrize("what", ["--out", "--data-dir"])
def test_no_permission(what: str, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    arguments = [*SETTINGS, "--epochs=1", f"--out={closed / 'run'}"]
    if what == "--data-dir":
        arguments = ["--dataset=cifar10", f"--data-dir={closed}", "--quiet", "--out=/tmp/never-made"]
    imports = [*arguments, f"--data-dir={tmp_path / 'missing'}", f"--out={tmp_path / 'imports'}"]
    done = train(arguments, tmp_path / "log", prepare=AnotherUser(imports))
    assert done.code == 2
    assert done.stderr.count("\n") == 1
    assert "permission" in done.stderr.lower()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with folder_lock(run):
        done = train([*SETTINGS, "--epochs=1", f"--out={run}"], tmp_path / "log")
    assert done.code == 2
    assert "another process is training in" in done.stderr


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_train([*SETTINGS, "--epochs=1", f"--out={run}"], tmp_path / "log", prepare=KillAtCall("fsync", 9))
    assert finish(process, tmp_path / "log").code == -signal.SIGKILL
    with folder_lock(run):
        pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run_inline([*SETTINGS, "--epochs=2", "--checkpoint-seconds=0", f"--out={folder}"]).code == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run that may be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def assert_resume_fails(run: Path, *parts: str) -> None:
    before = contents(run / "checkpoints")
    done = run_inline([*SETTINGS, "--epochs=2", f"--out={run}", "--resume"], code=2)
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert contents(run / "checkpoints") == before


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_checkpoints(name: str, damage: str, run: Path) -> None:
    for path in checkpoint_folders(run / "checkpoints"):
        file = path / name
        data = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            middle = len(data) // 2
            file.write_bytes(data[:middle] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    assert_resume_fails(run, "no checkpoint in", name, "nothing was changed")


@pytest.mark.parametrize(
    ("manifest", "part"),
    [
        ("not JSON", "manifest.json is not JSON"),
        ("[]", "is not a cifarfast checkpoint"),
        ('{"format": "other"}', "is not a cifarfast checkpoint"),
        ('{"format": "cifarfast.checkpoint", "version": 99}', "has checkpoint version 99"),
        ('{"format": "cifarfast.checkpoint", "version": 1}', "manifest.json lacks sha256"),
        ('{"format": "cifarfast.checkpoint", "version": 1, "sha256": {}}', "is not a cifarfast checkpoint"),
    ],
)
def test_foreign_manifests(manifest: str, part: str, run: Path) -> None:
    for path in checkpoint_folders(run / "checkpoints"):
        (path / "manifest.json").write_text(manifest)
    assert_resume_fails(run, part)


def test_a_manifest_cannot_point_outside(run: Path, tmp_path: Path) -> None:
    newest = checkpoint_folders(run / "checkpoints")[0]
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["sha256"]["../../config.toml"] = "0" * 64
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"sha256.*config\.toml"):
        load_checkpoint(newest)


def test_checkpoint_of_another_model(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run_inline([*SETTINGS, "--arch=linear", "--epochs=2", f"--out={other}"]).code == 0
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    assert_resume_fails(run, "other settings", "arch: 'mlp100' ≠ 'linear'")


def test_checkpoint_trained_on_other_data(run: Path) -> None:
    for path in checkpoint_folders(run / "checkpoints"):
        checkpoint = load_checkpoint(path)
        shutil.rmtree(path)
        save_checkpoint(
            run / "checkpoints",
            path.name.removeprefix("step-"),
            Checkpoint(checkpoint.tensors, checkpoint.state | {"fingerprint": "sha256:other"}),
        )
    assert_resume_fails(run, "was trained on other data (sha256:other")


def test_weights_that_do_not_fit(run: Path) -> None:
    for path in checkpoint_folders(run / "checkpoints"):
        checkpoint = load_checkpoint(path)
        tensors = checkpoint.tensors | {"model": {name: t[:1] for name, t in checkpoint.tensors["model"].items()}}
        shutil.rmtree(path)
        save_checkpoint(run / "checkpoints", path.name.removeprefix("step-"), Checkpoint(tensors, checkpoint.state))
    assert_resume_fails(run, "does not fit this model")


def test_the_two_newest_are_kept(run: Path) -> None:
    assert [path.name for path in checkpoint_folders(run / "checkpoints")] == [
        "step-000000008-evaluated",
        "step-000000008",
    ]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("state", "part"),
    [("[]", "state.json is no table"), ("{}", "state.json lacks recipe"), ("[" * 100_000, "is not JSON")],
)
def test_foreign_states(state: str, part: str, run: Path) -> None:
    for path in checkpoint_folders(run / "checkpoints"):
        (path / "state.json").write_text(state)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["sha256"]["state.json"] = hashlib.sha256(state.encode()).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))
    assert_resume_fails(run, part)


def test_other_peoples_files_do_not_matter(run: Path) -> None:
    (run / "checkpoints" / ".DS_Store").touch()
    (run / ".nfs0001").touch()
    assert run_inline([*SETTINGS, "--epochs=2", f"--out={run}", "--resume"]).code == 0
    assert (run / "checkpoints" / ".DS_Store").exists()
