"""A user's mistake is one line on stderr that says what to do, and exit code 2; never a traceback."""

import dataclasses
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mistakes import Fails
from PIL import Image
from processes import run_inline

from cifarfast.commands.flags import known_flags
from cifarfast.commands.train import TrainOptions
from cifarfast.recipes.recipe import Recipe

TINY = ["--dataset=synthetic:classes=3,train=40,test=12", "--arch=linear", "--epochs=1", "--batch-size=8", "--quiet"]


def assert_one_line(arguments: list[str], *parts: str) -> None:
    done = run_inline(arguments, code=2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("cifarfast: ")
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--epochs=0"], ["epochs = 0", "greater than or equal to 1"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--epochs"], ["--epochs"]),
        (["--batch-size=0"], ["batch_size = 0"]),
        (["--epoch", "3"], ["unknown flag --epoch", "did you mean '--epochs'"]),
        (["--bach_size=3"], ["unknown flag --bach_size", "did you mean '--batch-size'"]),
        (["--optimizer", "adm"], ["adm", "adam"]),
        (["stray"], ["stray"]),
        (["--arch=wrn16_9x"], ["wrn16_9x"]),
        (["--dataset=cifer10"], ["cifer10", "did you mean 'cifar10'"]),
        (["--recipe=b01_lent"], ["did you mean 'b01_lenet'"]),
        (["--recipe"], ["--recipe"]),
        (["--early-stopping-patience=2"], ["set --val-split"]),
        (["--l2", "fc9", "1e-4"], ["l2 names layer 'fc9'"]),
        (["--limit-train=0"], ["limit_train = 0"]),
        (["--limit-train=41"], ["41"]),
        (["--val-split=1"], ["val_split = 1"]),
        (["--dropout=0.5"], ["dropout"]),
        (["--image-size=64"], ["64"]),
        (["--crop-padding=40"], ["padding"]),
    ],
)
def test_settings(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    assert_one_line([*TINY, f"--out={tmp_path / 'run'}", *arguments], *parts)
    assert not (tmp_path / "run").exists()


def test_batch_above_the_data_set(tmp_path: Path) -> None:
    arguments = [*TINY[:-2], "--batch-size=41", f"--out={tmp_path / 'run'}"]
    assert_one_line(arguments, "batch_size 41 is above the 40 training images")


def test_resume_needs_a_folder() -> None:
    assert_one_line([*TINY, "--resume"], "--resume needs --out")


def test_one_image_a_step_and_batch_norm(tmp_path: Path) -> None:
    settings = ["--arch=cnn_bn", "--batch-size=1", f"--out={tmp_path / 'run'}"]
    assert_one_line([*TINY[:1], "--epochs=1", "--quiet", *settings], "raise --batch-size")


def test_names_that_are_too_long(tmp_path: Path) -> None:
    long = "x" * 300
    for argument in (f"--out={tmp_path / long}", f"--dataset=folder:{tmp_path / long}"):
        assert_one_line([*TINY, argument], "name")
    assert_one_line(["--dataset=cifar10", f"--data-dir={tmp_path / long}", "--quiet"], "name")


def test_a_backend_that_is_not_there_leaves_no_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARFAST_BACKEND", "banana")
    assert_one_line([*TINY, f"--out={tmp_path / 'run'}"], "CIFARFAST_BACKEND")
    assert not (tmp_path / "run").exists()


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m cifarfast --help | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert_one_line([*TINY, "--device=cuda"], "no GPU")


def test_recipe_files(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    assert_one_line([f"--recipe={tmp_path / 'broken.toml'}"], "broken.toml is not TOML")
    (tmp_path / "typo.toml").write_text("epoch = 3")
    assert_one_line([f"--recipe={tmp_path / 'typo.toml'}"], "unknown setting 'epoch'", "did you mean 'epochs'")
    assert_one_line([f"--recipe={tmp_path / 'absent.toml'}"], "cannot read recipe file")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert_one_line([f"--recipe={tmp_path / 'binary.toml'}"], "binary.toml is not text in UTF-8")


def write_cifar(folder: Path, damage: Callable[[Path], None]) -> Path:
    """A small CIFAR-10 in the python layout, with one fault."""
    target = folder / "cifar-10-batches-py"
    target.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {"data": bytes(range(256)) * 120, "labels": [i % 10 for i in range(10)]}
        (target / name).write_bytes(pickle.dumps(batch, protocol=2))
    damage(target)
    return folder


class Attack:
    """What a hostile pickle does: run a command when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def truncate(folder: Path) -> None:
    path = folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:5000])


def bad_label(folder: Path) -> None:
    import numpy as np

    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}
    (folder / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize(("damage", "part"), [(truncate, "data_batch_3"), (bad_label, "data_batch_2")])
def test_damaged_cifar(damage: Callable[[Path], None], part: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, damage)
    assert_one_line(["--dataset=cifar10", f"--data-dir={tmp_path}", f"--out={tmp_path / 'run'}"], part)


def test_attack_pickle_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    write_cifar(
        tmp_path, lambda f: (f / "data_batch_1").write_bytes(pickle.dumps(Attack(f"touch {proof}"), 2)) and None
    )
    assert_one_line(["--dataset=cifar10", f"--data-dir={tmp_path}", f"--out={tmp_path / 'run'}"], "data_batch_1")
    assert not proof.exists()


def test_missing_data_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    assert_one_line(["--dataset=cifar10", f"--data-dir={tmp_path}", f"--out={tmp_path / 'run'}"], str(tmp_path))


def images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (16, 16), (i, 2 * i, 3 * i)).save(folder / f"{i}.png")


def test_image_folders(tmp_path: Path) -> None:
    images(tmp_path / "one" / "cat", 5)
    assert_one_line([f"--dataset=folder:{tmp_path / 'one'}"], "at least two classes")
    images(tmp_path / "two" / "cat", 5)
    images(tmp_path / "two" / "dog", 5)
    (tmp_path / "two" / "dog" / "3.png").write_bytes(b"not an image")
    assert_one_line([f"--dataset=folder:{tmp_path / 'two'}"], "3.png")
    assert_one_line([f"--dataset=folder:{tmp_path / 'absent'}"], "absent")


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\nb.png,dog\n")
    assert_one_line([f"--dataset=csv:{tmp_path / 'list.csv'}"], "a.png")


def test_run_folder_in_the_way(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_inline([*TINY, f"--out={run}"]).code == 0
    assert_one_line([*TINY, f"--out={run}"], "--resume")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_one_line([*TINY, f"--out={run}", "--resume", "--lr=0.5"], "lr: 0.5 ≠ 0.1")
    assert_one_line(["--recipe=quickstart", f"--out={run}", "--resume"], "other settings")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.jpg").touch()
    assert_one_line([*TINY, f"--out={other}"], "not a run folder")
    (tmp_path / "file").touch()
    assert_one_line([*TINY, f"--out={tmp_path / 'file'}"], "a file stands where")
    shutil.rmtree(run / "checkpoints")


def test_every_setting_has_a_flag() -> None:
    flags = set(known_flags(TrainOptions))
    for name in (f.name for f in dataclasses.fields(Recipe)):
        assert f"--{name.replace('_', '-')}" in flags


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trane"], "did you mean 'train'"),
        (["models", "zzz*"], "zzz*"),
        (["recipes", "zzz"], "zzz"),
        (["evaluate", "/nowhere"], "/nowhere"),
        (["evaluate"], ""),
        (["report", "/nowhere"], "/nowhere"),
        (["env", "--verbose"], "takes no arguments"),
        (["augment-preview", "--dataset=synthetic", "--out=picture.foo"], "must end in .png"),
        (["augment-preview", "--dataset=synthetic", "--images=0"], "at least 1"),
        (["models", "--num-class=3"], "did you mean '--num-classes'"),
    ],
)
def test_other_commands(arguments: list[str], part: str, fails: Fails) -> None:
    assert part in fails(*arguments)
