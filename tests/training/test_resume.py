"""A run that is killed, at any moment, and resumed ends like one that was not: the same bytes."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from processes import InForeground, KillAtCall, finish, run_inline, start_train, train, wait_until

from cifarfast.runs.checkpoint import checkpoint_folders, load_checkpoint
from cifarfast.training.engine import Trainer

# dropout (WRN's own rate), batch norm, crop and flip, an average of the weights, momentum, a smaller last batch
SETTINGS = [
    "--dataset=synthetic:classes=3,train=70,test=20,size=8",
    "--arch=wrn10_1",
    "--epochs=3",
    "--batch-size=16",
    "--ema-decay=0.9",
    "--val-split=0.2",
    "--label-smoothing=0.1",
    "--lr=0.01",
    "--device=cpu",
    "--quiet",
]
EVERY_STEP = "--checkpoint-seconds=0"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = train([*SETTINGS, f"--out={folder / 'run'}"], folder / "log")
    assert done.code == 0, done.stderr
    return folder / "run"


def assert_same_outcome(run: Path, reference: Path) -> None:
    ours, theirs = (load_checkpoint(checkpoint_folders(folder / "checkpoints")[0]) for folder in (run, reference))
    assert ours.tensors.keys() == theirs.tensors.keys() == {"model", "optimizer", "ema"}
    for kind, tensors in theirs.tensors.items():
        assert ours.tensors[kind].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[kind][name], tensor), f"{kind}: {name}"
    for key in ("running", "schedule", "scaler"):
        assert ours.state[key] == theirs.state[key]
    assert (run / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, reference)]
    for key in ("test_accuracy_percent", "best_epoch", "test_loss", "epochs"):
        assert results[0][key] == results[1][key]


def resume(run: Path, log: Path) -> str:
    done = train([*SETTINGS, f"--out={run}", "--resume"], log)
    assert done.code == 0, done.stderr
    return done.stdout


def test_killed_at_random_moments(uninterrupted: Path, tmp_path: Path) -> None:
    run, delays = tmp_path / "run", random.Random(1)
    kills = 0
    for _ in range(30):
        process = start_train([*SETTINGS, EVERY_STEP, f"--out={run}", "--resume"], tmp_path / "log")
        process.join(delays.uniform(0.1, 0.6))
        if process.exitcode is not None:
            break
        process.kill()
        assert finish(process, tmp_path / "log").code == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    resume(run, tmp_path / "log")
    assert_same_outcome(run, uninterrupted)


# A save fsyncs four or five files and two folders and renames once or twice, so that these calls fall inside the first
# saves (a half-written file, a checkpoint that is whole but not renamed) and between them.
@pytest.mark.parametrize(
    ("function", "call"), [("fsync", n) for n in range(9, 21)] + [("rename", n) for n in (1, 3, 4, 5, 6, 7)]
)
def test_killed_inside_a_save(function: str, call: int, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train([*SETTINGS, EVERY_STEP, f"--out={run}"], tmp_path / "log", prepare=KillAtCall(function, call))
    assert done.code == -signal.SIGKILL
    resume(run, tmp_path / "log")
    assert_same_outcome(run, uninterrupted)
    assert not list((run / "checkpoints").glob(".*"))
    assert len(checkpoint_folders(run / "checkpoints")) <= 2


@pytest.mark.parametrize(
    ("function", "call"), [("fsync", 1), ("fsync", 2), ("fsync", 3), ("fsync", 5), ("replace", 1), ("replace", 2)]
)
def test_killed_before_the_first_checkpoint(function: str, call: int, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train([*SETTINGS, f"--out={run}"], tmp_path / "log", prepare=KillAtCall(function, call))
    assert done.code == -signal.SIGKILL
    assert "no checkpoint yet" in resume(run, tmp_path / "log")
    assert_same_outcome(run, uninterrupted)


def test_resume_of_a_folder_that_is_not_there_starts_the_run(uninterrupted: Path, tmp_path: Path) -> None:
    assert "no checkpoint yet" in resume(tmp_path / "run", tmp_path / "log")
    assert_same_outcome(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_asked_to_stop(signum: signal.Signals, code: int, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_train([*SETTINGS, "--epochs=2000", f"--out={run}"], tmp_path / "log", prepare=InForeground())
    wait_until((run / "metrics.csv").exists, process)
    assert process.pid is not None
    os.kill(process.pid, signum)
    done = finish(process, tmp_path / "log")
    assert done.code == code
    assert f"-m cifarfast.train --out {run} --resume" in done.stderr
    state = load_checkpoint(checkpoint_folders(run / "checkpoints")[0]).state
    assert state["progress"]["epoch"] + state["progress"]["step_in_epoch"] > 0


def test_stopped_in_mid_epoch_and_resumed(uninterrupted: Path, tmp_path: Path) -> None:
    said = resumed_in_mid_epoch(SETTINGS, tmp_path / "run")
    assert "epoch 2, step 2" in said
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert_same_outcome(tmp_path / "run", uninterrupted)


def test_a_finished_run_resumes_to_the_same_result(uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    (run / "result.json").unlink()
    resume(run, tmp_path / "log")
    assert_same_outcome(run, uninterrupted)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train([*SETTINGS, EVERY_STEP, f"--out={run}"], tmp_path / "log").code == 0
    newest = checkpoint_folders(run / "checkpoints")[0]
    weights = newest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    said = resume(run, tmp_path / "log")
    assert "checksum of model.safetensors does not match" in said
    assert newest.name in said
    assert (run / "checkpoints" / f"damaged-{newest.name}").is_dir()
    assert_same_outcome(run, uninterrupted)


def test_damaged_checkpoints_of_the_future_do_not_push_out_new_ones(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train([*SETTINGS, EVERY_STEP, f"--out={run}"], tmp_path / "log", prepare=KillAtCall("rename", 9)).code < 0
    for number in (900, 901):
        (run / "checkpoints" / f"step-{number:09d}").mkdir()
    resume(run, tmp_path / "log")
    assert all(load_checkpoint(path) for path in checkpoint_folders(run / "checkpoints"))
    assert len(checkpoint_folders(run / "checkpoints")) == 2
    assert_same_outcome(run, uninterrupted)


PYRAMID = ["--arch=pyramidnet8_a6_shakedrop", "--sam=asam", "--cutmix-alpha=1"]
EVERYTHING = [
    *PYRAMID,
    *("--optimizer=muon", "--precision=fp16", "--clip-norm=1", "--lookahead-every=3", "--sam-every=2"),
    *("--schedule=plateau", "--plateau-patience=0", "--augmented-copy", "--on-nonfinite=skip", "--warmup-epochs=1"),
    *("--early-stopping-patience=3", "--dataset=synthetic:classes=3,train=30,test=6,size=8"),
]
OPTIMIZERS = ["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad", "muon"]


@pytest.mark.parametrize(
    "settings",
    [
        *([f"--optimizer={name}", "--schedule=plateau", "--plateau-patience=0", "--lr=0.001"] for name in OPTIMIZERS),
        ["--sam=asam", "--sam-rho=2", "--clip-norm=1", "--ema-warmup", "--cutmix-alpha=1"],
        ["--sam=sam", "--sam-every=2", "--lookahead-every=3"],
        ["--sam=asam", "--precision=bf16", "--on-nonfinite=skip"],
        ["--precision=bf16"],
        ["--precision=fp16"],
        PYRAMID,
    ],
    ids=lambda settings: " ".join(settings[:2]),
)
def test_every_setting_resumes(settings: list[str], tmp_path: Path) -> None:
    assert_resumes([*SETTINGS, "--epochs=2", *settings], tmp_path, stops=(6,))


# the first and the last of an epoch's three steps, and the one after it
@pytest.mark.parametrize(("backend", "stops"), [("torch", (1, 3, 4)), ("fused", (2,))])
def test_everything_at_once_twice_and_resumed(backend: str, stops: tuple[int, ...], tmp_path: Path) -> None:
    settings = [*SETTINGS, "--epochs=2", *EVERYTHING, f"--backend={backend}"]
    assert_resumes(settings, tmp_path, stops)
    assert run_inline([*settings, f"--out={tmp_path / 'again'}"]).code == 0
    assert_same_outcome(tmp_path / "again", tmp_path / "a")


def assert_resumes(settings: list[str], folder: Path, stops: tuple[int, ...]) -> None:
    """A run, left in ``folder / "a"``, ends like those that are stopped after some of its steps."""
    assert run_inline([*settings, f"--out={folder / 'a'}"]).code == 0
    for steps in stops:
        resumed_in_mid_epoch(settings, folder / str(steps), after=steps)
        assert_same_outcome(folder / str(steps), folder / "a")


def resumed_in_mid_epoch(settings: list[str], run: Path, after: int = 6) -> str:
    """Stop a run after its sixth (or another) step and resume it, in this process; return what the second part said."""
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.train_step

        def counted(trainer: Trainer, *arguments: object) -> None:
            step(trainer, *arguments)  # type: ignore[arg-type]
            steps.append(1)
            if len(steps) == after:
                signal.raise_signal(signal.SIGTERM)

        patch.setattr(Trainer, "train_step", counted)
        assert run_inline([*settings, f"--out={run}"]).code == 143
    done = run_inline([*settings, f"--out={run}", "--resume"], code=0)
    return done.stdout
