"""The main job from its command line: quickstart, early stopping, schedules, what a run leaves behind."""

import contextlib
import io
import itertools
import json
import os
import pty
import signal
import sys
import termios
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_inline

from cifarfast.api.run import Run
from cifarfast.commands import cli
from cifarfast.commands.evaluate import main as evaluate
from cifarfast.commands.train import main as train
from cifarfast.recipes.recipe import parse_recipe
from cifarfast.runs.checkpoint import checkpoint_folders, load_checkpoint, newest_checkpoint
from cifarfast.runs.environment import environment_after
from cifarfast.runs.run_folder import Row, RunFolder
from cifarfast.runtime.signals import Interrupted
from cifarfast.training.checkpointer import Checkpointer
from cifarfast.training.engine import Trainer
from cifarfast.training.metrics import score
from cifarfast.training.nonfinite import NonfiniteWatch
from cifarfast.training.result import best_row
from cifarfast.training.train import train as train_into
from cifarfast.training.train_state import TrainState

TINY = ["--dataset=synthetic:classes=3,train=96,test=30,size=18", "--arch=cnn_tutorial", "--batch-size=16", "--quiet"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.mark.slow
def test_quickstart(run: RunFolder) -> None:
    done = run_inline(["--recipe=quickstart", "--quiet", f"--out={run.path}"], code=0)
    result = run.read_result()
    assert result["test_accuracy_percent"] >= 97
    assert result["train_seconds"] <= 60
    assert result["official"] is True
    assert f"report {run.path}" in done.stdout
    assert "--recipe b01_lenet" in done.stdout


def test_what_a_run_leaves(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run_inline([*TINY, "--epochs=3", "--ema-decay=0.5", "--val-split=0.25", f"--out={run.path}"], code=0)
    result, rows, environment = run.read_result(), run.read_metrics(), run.read_environment()
    needed = "recipe arch dataset official seed epochs test_accuracy_percent best_test_accuracy_percent best_epoch "
    needed += "train_seconds images_per_second parameters macs fingerprint val_accuracy_percent"
    assert set(needed.split()) <= result.keys()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = min(rows, key=lambda row: row["val_loss"])
    assert best["epoch"] == result["best_epoch"] == result["kept_epoch"]
    for key in ("test_accuracy_percent", "best_test_accuracy_percent"):
        assert result[key] == best["test_accuracy_percent"]
    logits, labels = run.read_predictions()
    assert (logits.shape, logits.dtype, labels.dtype) == ((30, 3), np.float32, np.int64)
    scores = score(torch.from_numpy(logits), torch.from_numpy(labels))
    assert scores.accuracy_percent == result["test_accuracy_percent"]
    assert environment["data"]["fingerprint"] == result["fingerprint"]
    assert environment["data"]["official"] is False
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert "cross_entropy" in environment["backends"]
    assert evaluate([str(run.path), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["accuracy_percent"] == result["test_accuracy_percent"]
    assert again["loss"] == pytest.approx(result["test_loss"], rel=1e-6)
    assert evaluate([str(run.path), "--weights=model", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] != again["loss"]
    assert cli.main(["report", str(run.path)]) == 0
    table = capsys.readouterr().out
    assert f"{result['test_accuracy_percent']:.2f}" in table
    assert result["dataset"] in table


def test_the_printed_config_is_a_recipe_that_repeats_the_run(tmp_path: Path) -> None:
    printed = run_inline([*TINY, "--epochs=2", "--optimizer=adam", "--print-config"], code=0)
    recipe = parse_recipe(printed.stdout, where="printed", name="x")[0]
    assert (recipe.optimizer, recipe.lr) == ("adam", 1e-3)
    assert (recipe.device, recipe.precision) == ("auto", "auto")
    (tmp_path / "mine.toml").write_text(printed.stdout)
    for name, arguments in (
        ("a", [*TINY, "--epochs=2", "--optimizer=adam"]),
        ("b", [f"--recipe={tmp_path}/mine.toml"]),
    ):
        assert run_inline([*arguments, "--quiet", f"--out={tmp_path / name}"]).code == 0
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (tmp_path / "b" / "metrics.csv").read_bytes()


def test_recipe_then_flags(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("epochs = 7\nlr = 0.5\n")
    printed = run_inline([f"--recipe={tmp_path / 'r.toml'}", "--lr=0.25", "--print-config"])
    recipe = parse_recipe(printed.stdout, where="printed", name="x")[0]
    assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.name) == (7, 0.25, 128, "r")


def test_the_default_is_a_sensible_cifar10_training() -> None:
    printed = run_inline(["--arch", "wrn16_8", "--epochs", "200", "--device=cpu", "--print-config"])
    recipe = parse_recipe(printed.stdout, where="printed", name="x")[0]
    assert (recipe.dataset, recipe.optimizer, recipe.nesterov, recipe.momentum) == ("cifar10", "sgd", True, 0.9)
    assert (recipe.schedule, recipe.lr, recipe.weight_decay) == ("cosine", 0.1, 5e-4)
    assert (recipe.crop_padding, recipe.flip) == (4, "random")


def test_early_stopping(run: RunFolder) -> None:
    settings = ["--epochs=50", "--val-split=0.3", "--early-stopping-patience=2", "--lr=1e-12", "--schedule=constant"]
    assert run_inline([*TINY, *settings, f"--out={run.path}"]).code == 0
    rows = run.read_metrics()
    assert len(rows) == 3  # at a rate of 1e-12 nothing improves after the first epoch
    losses = [row["val_loss"] for row in rows]
    assert losses[0] <= min(losses[1:])
    assert run.read_result()["epochs"] == len(rows)


# a rate that overshoots: the validation loss falls, and rises again
OVERSHOOTS = ["--epochs=12", "--val-split=0.3", "--lr=0.3", "--schedule=constant", "--early-stopping-patience=3"]


@pytest.mark.parametrize("more", [["--ema-decay=0.5"], ["--eval-every=5"]], ids=["ema", "eval_every"])
def test_line_19_the_weights_of_the_best_validation_epoch(more: list[str], tmp_path: Path) -> None:
    """They are kept, evaluated and loaded; the last line and the result say that the training was stopped."""
    run = RunFolder(tmp_path / "run")
    done = run_inline([*TINY, *OVERSHOOTS, *more, f"--out={run.path}"])
    assert done.code == 0, done.stderr
    result, rows = run.read_result(), run.read_metrics()
    best = int(min(rows, key=lambda row: row["val_loss"])["epoch"])
    assert result["stopped_early"] is True
    assert (result["epochs"], result["kept_epoch"], result["best_epoch"]) == (len(rows), best, best)
    assert len(rows) == best + 3 < 12
    assert result["val_accuracy_percent"] == rows[best - 1]["val_accuracy_percent"]
    assert f"after epoch {best} on" in done.stdout
    assert f"; stopped early after epoch {len(rows)}: the validation loss no longer fell\n" in done.stdout
    shorter = RunFolder(tmp_path / "shorter")  # the same training, as if the best epoch had been the last
    settings = [*TINY, *OVERSHOOTS, *more, f"--epochs={best}", f"--out={shorter.path}"]
    assert run_inline(settings).code == 0
    assert shorter.read_result()["stopped_early"] is False
    ours, theirs = (newest_checkpoint(folder.checkpoints)[1].tensors for folder in (run, shorter))
    for name in ours.keys() - {"optimizer"}:
        assert all(torch.equal(ours[name][key], theirs[name][key]) for key in theirs[name])
    assert ours.keys() == theirs.keys()
    for mine, other in zip(run.read_predictions(), shorter.read_predictions(), strict=True):
        assert np.array_equal(mine, other)
    assert Run(run.path).evaluate(device="cpu").scores.accuracy_percent == result["test_accuracy_percent"]


def test_line_19_the_best_epoch_goes_through_a_resume(tmp_path: Path) -> None:
    """Killed in every epoch before its last checkpoint, and resumed, the run ends as the one that was not."""
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    settings = [*TINY, *OVERSHOOTS, "--checkpoint-seconds=0"]
    assert run_inline([*settings, f"--out={whole.path}"]).code == 0

    class Killed(Exception):
        pass

    calls = itertools.count()

    def kill(row: Row, timing: Row) -> None:
        if next(calls) % 2 == 0:  # the same epoch comes once more
            raise Killed

    recipe = whole.read_config()
    for _ in range(13):
        with contextlib.suppress(Killed), contextlib.redirect_stdout(io.StringIO()):
            train_into(recipe, out=parts.path, resume=True, show_progress=False, after_epoch=kill)
            break
    assert parts.read_predictions()[0].tobytes() == whole.read_predictions()[0].tobytes()
    clock = ("checksums", "train_seconds", "evaluation_seconds", "images_per_second")
    ours, theirs = ({k: v for k, v in run.read_result().items() if k not in clock} for run in (parts, whole))
    assert ours == theirs


def test_line_19_without_restoring_the_last_weights_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run_inline([*TINY, *OVERSHOOTS, "--no-restore-best-weights", f"--out={run.path}"]).code == 0
    result, rows = run.read_result(), run.read_metrics()
    assert (result["kept_epoch"], result["test_accuracy_percent"]) == (len(rows), rows[-1]["test_accuracy_percent"])
    best = min(rows, key=lambda row: row["val_loss"])
    assert best["epoch"] < len(rows)
    assert (result["best_epoch"], result["best_test_accuracy_percent"]) == (
        best["epoch"],
        best["test_accuracy_percent"],
    )


def test_line_19_the_test_set_chooses_only_where_there_is_no_validation_part() -> None:
    rows = [{"epoch": n, "test_loss": 1.0, "test_accuracy_percent": a} for n, a in enumerate((5.0, 9.0, 7.0), 1)]
    assert best_row(rows)["epoch"] == 2
    assert best_row([row | {"val_loss": 4.0 - row["epoch"]} for row in rows])["epoch"] == 3


def test_evaluation_every_few_epochs(run: RunFolder) -> None:
    assert run_inline([*TINY, "--epochs=5", "--eval-every=2", f"--out={run.path}"]).code == 0
    rows = run.read_metrics()
    assert [row["epoch"] for row in rows if "test_loss" in row] == [2, 4, 5]


def test_a_diverging_run_stops_and_keeps_its_last_checkpoint(run: RunFolder) -> None:
    settings = ["--epochs=20", "--lr=1e12", "--schedule=one_cycle", "--one-cycle-start-ratio=1e-14"]
    done = run_inline([*TINY, *settings, "--checkpoint-seconds=0", f"--out={run.path}"], code=2)
    assert "lower --lr" in done.stderr
    assert done.stderr.count("\n") == 1
    kept = checkpoint_folders(run.checkpoints)
    assert len(kept) == 2
    assert str(kept[0]) in done.stderr
    for path in kept:
        tensors = load_checkpoint(path).tensors["model"]
        assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize(
    "arguments", [["--lr=1e38", "--epochs=1"], ["--lr=1e38", "--epochs=3", "--checkpoint-seconds=0"]]
)
def test_divergence_in_the_last_step_is_no_result(arguments: list[str], run: RunFolder) -> None:
    data = "--dataset=synthetic:classes=3,train=64,test=12,size=8"
    done = run_inline([data, "--arch=mlp100", "--batch-size=64", "--quiet", *arguments, f"--out={run.path}"], code=2)
    assert "lower --lr" in done.stderr
    assert not (run.path / "result.json").exists()


def test_a_changed_recipe_says_so(run: RunFolder) -> None:
    settings = ["--recipe=quickstart", "--epochs=1", "--seed=7", "--limit-train=64", "--quiet"]
    assert run_inline([*settings, f"--out={run.path}"]).code == 0
    assert run.read_result()["changed_settings"] == ["limit_train: 64 ≠ None", "epochs: 1 ≠ 20"]


def paint(folder: Path, count: int) -> None:
    """Pictures of two classes that differ in colour."""
    for label, blue in (("cat", 20), ("dog", 200)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (32, 32), (i, 9 * i, blue)).save(folder / label / f"{i}.png")


def test_a_run_on_a_folder_can_be_evaluated_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "pets", 10)
    monkeypatch.chdir(tmp_path)
    settings = ["--arch=linear", "--epochs=1", "--batch-size=8", "--quiet", "--out=run"]
    assert run_inline(["--dataset=folder:pets", *settings]).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate(["../run", "--json"]) == 0


def test_early_stopping_on_data_with_a_validation_part_of_their_own(run: RunFolder, tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        paint(tmp_path / "pets" / part, 5)
    settings = ["--arch=linear", "--epochs=9", "--batch-size=5", "--early-stopping-patience=1", "--lr=1e-12", "--quiet"]
    assert run_inline([f"--dataset=folder:{tmp_path / 'pets'}", *settings, f"--out={run.path}"]).code == 0
    assert len(run.read_metrics()) < 9


@pytest.mark.parametrize(
    "settings", [["--precision=bf16"], ["--precision=fp16"], ["--no-channels-last"], ["--nesterov"]]
)
def test_variants_learn(settings: list[str], run: RunFolder) -> None:
    settings = [*settings, "--epochs=8", "--lr=0.02", "--crop-padding=0", "--flip=none"]
    assert run_inline([*TINY, *settings, f"--out={run.path}"]).code == 0
    rows = run.read_metrics()
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "step", "one_cycle", "plateau"])
def test_the_logged_rate_is_the_schedules(schedule: str, run: RunFolder) -> None:
    arguments = [*TINY, "--epochs=3", f"--schedule={schedule}", "--lr=0.01", "--warmup-epochs=1"]
    assert run_inline([*arguments, f"--out={run.path}"]).code == 0
    rates = [row["lr"] for row in run.read_metrics()]
    assert rates[0] == pytest.approx(0.01)
    assert all(0 < rate <= 0.01 for rate in rates)


def test_a_last_batch_of_one_image_is_left_out(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--dataset=synthetic:train=33,test=12,size=8", "--arch=wrn10_1", "--batch-size=16", "--epochs=1"]
    sizes: list[int] = []
    step = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda t, count, *rest: (sizes.append(count), step(t, count, *rest)))
    assert run_inline([*arguments, "--quiet", f"--out={run.path}"]).code == 0
    assert sizes == [16, 16]


def test_a_checkpoint_in_mid_epoch_has_the_time_of_the_steps_it_waited_for(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, save, seconds = NonfiniteWatch.check, Checkpointer.save, []

    def slow(watch: NonfiniteWatch, state: TrainState, *, wait: bool) -> None:
        time.sleep(0.05 * wait)  # a GPU that is behind the host
        check(watch, state, wait=wait)

    def noted(checkpointer: Checkpointer, state: TrainState) -> None:
        seconds.append(state.epoch_seconds)
        save(checkpointer, state)

    monkeypatch.setattr(NonfiniteWatch, "check", slow)
    monkeypatch.setattr(Checkpointer, "save", noted)
    assert run_inline([*TINY, "--epochs=1", "--checkpoint-seconds=0", f"--out={run.path}"]).code == 0
    assert len(seconds) > 3
    assert all(value > 0.05 * i for i, value in enumerate(seconds[:-1], 1)), seconds
    assert run.read_result()["train_seconds"] > 0.05 * (len(seconds) - 1)


def test_processes_part_after_the_trainer_with_its_graphs_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Graph:
        pass

    kept, seen = [], []

    def train(*arguments: object, **named: object) -> None:
        graph = Graph()
        kept.append(weakref.ref(graph))
        raise Interrupted(signal.SIGTERM, tmp_path)

    module = sys.modules["cifarfast.commands.train"]
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "leave_world", lambda: seen.append(kept[0]()))
    assert run_inline(TINY).code == 143
    assert seen == [None]


def test_tensorboard(run: RunFolder) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert run_inline([*TINY, "--epochs=2", "--tensorboard", f"--out={run.path}"]).code == 0
    events = event_accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    rows = run.read_metrics()
    logged = [event.value for event in events.Scalars("test_accuracy_percent")]
    assert logged == pytest.approx([row["test_accuracy_percent"] for row in rows])


def test_the_bar_on_a_terminal_shows_loss_accuracy_rate_and_time_left(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda *arguments: (time.sleep(0.15), step(*arguments)))
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    with os.fdopen(slave, "w") as terminal, contextlib.redirect_stderr(terminal):
        arguments = [argument for argument in TINY if argument != "--quiet"]
        assert train([*arguments, "--epochs=2", f"--out={run.path}"]) == 0
        text = os.read(master, 1 << 16).decode()
    os.close(master)
    for part in ("epoch 1/2", "epoch 2/2", "images/s", "loss", "accuracy", "<"):
        assert part in text


@pytest.mark.slow
def test_wrn16_8_finishes_on_a_cpu(real_data: Path, run: RunFolder) -> None:
    data = f"--data-dir={real_data / 'cifar-10-exact-sample'}"
    run_inline(["--arch=wrn16_8", "--epochs=1", "--limit-train=512", "--quiet", data, f"--out={run.path}"], code=0)
    result = run.read_result()
    assert (result["arch"], result["parameters"], result["official"]) == ("wrn16_8", 10_961_370, False)


@pytest.mark.slow
def test_compiled_by_torch_is_the_same_training(tmp_path: Path) -> None:
    settings = [*TINY, "--epochs=2", "--sam=asam", "--ema-decay=0.9", "--cutmix-alpha=1", "--device=cpu"]
    losses = []
    for name, choice in (("compiled", "--compile"), ("torch", "--backend=torch")):
        run_inline([*settings, choice, f"--out={tmp_path / name}"], code=0)
        losses.append([row["train_loss"] for row in RunFolder(tmp_path / name).read_metrics()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_line_22_another_machine_is_said_and_both_environments_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = [*TINY, "--epochs=1", f"--out={run.path}"]
    assert run_inline(settings).stderr == ""
    first = run.read_environment()
    assert run_inline([*settings, "--resume"]).stderr == ""
    assert run.read_environment().get("earlier", []) in ([], [first])  # at most the command line is another
    elsewhere = first | {"threads": first["threads"] + 7, "cpu": "another CPU"}
    run.write_environment(elsewhere)
    done = run_inline([*settings, "--resume"])
    assert done.code == 0
    assert done.stderr.startswith("cifarfast: the run goes on elsewhere, and its bits may differ (cpu: another CPU → ")
    assert f"threads: {first['threads'] + 7} → {first['threads']}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert run.read_environment()["earlier"] == [elsewhere]
    assert run_inline([*settings, "--resume"]).stderr == ""
    assert run.read_environment()["earlier"][0] == elsewhere


def test_line_22_what_bits_depend_on() -> None:
    here = {"cpu": "a", "threads": 1, "processes": 1, "gpu": {"name": "g"}, "packages": {"torch": "2", "numpy": "1"}}
    for change, word in (
        ({"threads": 2}, "threads: 2 → 1"),
        ({"processes": 2}, "processes: 2 → 1"),
        ({"gpu": None}, "gpu: None → g"),
        ({"packages": {"torch": "3"}}, "torch: 3 → 2"),
        ({"packages": {"torch": "2", "numpy": "2"}}, ""),
    ):
        kept, line = environment_after(here | change, here)
        assert word in line
        assert bool(line) == bool(word)
        assert kept == here | {"earlier": [here | change]}
    assert environment_after(here, here) == (here, "")
