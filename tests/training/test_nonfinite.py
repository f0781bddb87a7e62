"""Losses and gradients that are not finite: found, written down, left out or gone back from."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import run_inline
from small_steps import BATCH, make_step, run_steps
from torch import Tensor

from cifarfast.augment import Batch
from cifarfast.random import Purpose, permutation
from cifarfast.runs.checkpoint import checkpoint_folders, load_checkpoint
from cifarfast.runs.run_folder import RunFolder
from cifarfast.training.step import TrainStep

TINY = [
    "--dataset=synthetic:classes=3,train=64,test=12,size=8",
    "--arch=wrn10_1",
    "--dropout=0",
    "--batch-size=16",
    "--quiet",
]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch with image 7 has a picture that is NaN."""
    run = TrainStep._gradient

    def poison(step: TrainStep, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        position = step.step_in_epoch * step.recipe.batch_size
        if 7 in step.order[position : position + step.recipe.batch_size].tolist():
            batch.images.fill_(float("nan"))
        return run(step, batch, share)

    monkeypatch.setattr(TrainStep, "_gradient", poison)


def bad_batch(epoch: int) -> tuple[int, list[int]]:
    """The step of an epoch that has image 7, from 0, and its images."""
    order = permutation(64, 42, Purpose.SHUFFLE, epoch).tolist()
    step = order.index(7) // 16
    return step, order[16 * step : 16 * step + 16]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("sam", ["none", "asam"])
def test_stop_keeps_the_checkpoint_before_and_writes_the_batch_down(sam: str, run: RunFolder) -> None:
    done = run_inline([*TINY, "--epochs=3", "--checkpoint-seconds=0", f"--sam={sam}", f"--out={run.path}"], code=2)
    assert done.stderr.count("\n") == 1
    assert str(run.path / "nonfinite.json") in done.stderr
    step, indices = bad_batch(0)
    (row,) = json.loads((run.path / "nonfinite.json").read_text())
    assert row == {"epoch": 1, "step": step + 1, "action": "stop", "indices": indices}
    assert f"step-{step:09d}" in done.stderr


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    "settings",
    [[], ["--sam=asam", "--lookahead-every=2"], ["--optimizer=muon"], ["--precision=bf16"], ["--precision=fp16"]],
)
def test_skip_leaves_the_batch_out(settings: list[str], run: RunFolder) -> None:
    arguments = [*TINY, "--epochs=2", "--on-nonfinite=skip", "--ema-decay=0.9", *settings, f"--out={run.path}"]
    done = run_inline(arguments, code=0)
    rows = json.loads((run.path / "nonfinite.json").read_text())
    assert [(row["epoch"], row["step"], row["indices"]) for row in rows] == [
        (epoch + 1, bad_batch(epoch)[0] + 1, bad_batch(epoch)[1]) for epoch in range(2)
    ]
    assert all(0 < row["train_loss"] < 10 for row in run.read_metrics())
    assert done.stdout.count("1 step left out") == 2


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("settings", [["--checkpoint-seconds=0"], [], ["--precision=fp16"]])
def test_rollback_and_skip_end_with_the_same_weights(settings: list[str], tmp_path: Path) -> None:
    """A rollback that leaves the batch out repeats the steps before it, so it ends where skipping ends."""
    outcomes = []
    for policy in ("skip", "rollback"):
        run = RunFolder(tmp_path / policy)
        done = run_inline([*TINY, "--epochs=2", f"--on-nonfinite={policy}", *settings, f"--out={run.path}"], code=0)
        outcomes.append((run.read_metrics(), run.read_predictions()[0].tolist()))
    assert "going on from" in done.stdout
    assert outcomes[0] == outcomes[1]


def test_rollback_gives_up_in_the_end(tmp_path: Path) -> None:
    done = run_inline(
        [*TINY, "--epochs=9", "--lr=1e30", "--on-nonfinite=rollback", f"--out={tmp_path / 'run'}"], code=2
    )
    assert "lower --lr" in done.stderr


@pytest.fixture
def poison_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Spoils what every pass from ``first`` on, every ``every``-th of them, returns: its "loss" or its "gradient"."""

    def poison(what: str, *, first: int = 0, every: int = 1) -> None:
        run, passes = TrainStep._gradient, itertools.count()

        def poisoned(step: TrainStep, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
            loss, logits = run(step, batch, share)
            number = next(passes) - first
            if number >= 0 and number % every == 0:
                (loss if what == "loss" else step.flat.grad[:1]).fill_(float("inf"))
            return loss, logits

        monkeypatch.setattr(TrainStep, "_gradient", poisoned)

    return poison


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_second_loss_of_a_perturbed_step_counts_too(
    precision: str, poison_passes: Callable[..., None], run: RunFolder
) -> None:
    poison_passes("loss", first=3, every=100)  # the second pass of the second step
    run_inline([*TINY, "--epochs=1", "--sam=sam", f"--precision={precision}", f"--out={run.path}"], code=2)
    (row,) = json.loads((run.path / "nonfinite.json").read_text())
    assert (row["epoch"], row["step"]) == (1, 2)


def test_a_first_gradient_that_overflows_is_no_bad_loss(poison_passes: Callable[..., None], run: RunFolder) -> None:
    """In fp16 it makes the perturbed weights and with them the second loss NaN: a matter of the loss scale."""
    poison_passes("gradient", first=2, every=100)
    run_inline([*TINY, "--epochs=1", "--sam=sam", "--precision=fp16", f"--out={run.path}"], code=0)
    assert loss_scale(run)["scale"] == 32768
    assert not (run.path / "nonfinite.json").exists()


def loss_scale(run: RunFolder) -> dict[str, float]:
    scale: dict[str, float] = load_checkpoint(checkpoint_folders(run.checkpoints)[0]).state["scaler"]
    return scale


def test_a_gradient_that_overflows_at_every_scale_stops(poison_passes: Callable[..., None], run: RunFolder) -> None:
    poison_passes("gradient")
    run_inline([*TINY, "--epochs=6", "--precision=fp16", f"--out={run.path}"], code=2)
    (row,) = json.loads((run.path / "nonfinite.json").read_text())
    assert (row["epoch"], row["step"]) == (5, 1)  # 65,536 is halved sixteen times


def test_an_overflow_in_fp16_is_a_step_that_counts(poison_passes: Callable[..., None], tmp_path: Path) -> None:
    """Only the update is left out: as with torch's GradScaler, loss and batch norm's statistics are those of a step."""
    rows = []
    for policy in ("stop", "skip"):
        poison_passes("gradient", first=1, every=100)
        run = RunFolder(tmp_path / policy)
        run_inline([*TINY, "--epochs=1", "--precision=fp16", f"--on-nonfinite={policy}", f"--out={run.path}"], code=0)
        rows.append(run.read_metrics())
        counts = load_checkpoint(checkpoint_folders(run.checkpoints)[0]).tensors["model"]["bn.num_batches_tracked"]
        assert counts.item() == 4
    assert rows[0] == rows[1]


@pytest.mark.usefixtures("poisoned")
def test_a_bad_loss_does_not_touch_the_loss_scale(run: RunFolder) -> None:
    run_inline([*TINY, "--epochs=2", "--precision=fp16", "--on-nonfinite=skip", f"--out={run.path}"], code=0)
    assert loss_scale(run) == {"scale": 65536.0, "steps_without_overflow": 6}


@pytest.mark.parametrize(("policy", "first", "epoch"), [("skip", 4, 2), ("rollback", 0, 1)])
def test_an_epoch_without_one_good_step_stops(
    policy: str, first: int, epoch: int, poison_passes: Callable[..., None], run: RunFolder
) -> None:
    poison_passes("loss", first=first)
    done = run_inline([*TINY, "--epochs=3", f"--on-nonfinite={policy}", f"--out={run.path}"], code=2)
    assert f"in epoch {epoch}" in done.stderr
    assert len(run.read_metrics()) == epoch - 1
    assert len(json.loads((run.path / "nonfinite.json").read_text())) == 4


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad", "muon"])
def test_a_bad_first_step_leaves_no_trace(optimizer: str) -> None:
    """Corrections for a state's start divide by 0 in a step that does not count."""
    settings = {"on_nonfinite": "skip", "optimizer": optimizer, "ema_decay": 0.9, "lookahead_every": 2, "sam": "asam"}
    spoilt, plain = (make_step(lr=0.01, **settings) for _ in range(2))
    spoilt.model.train()
    spoilt.begin(0, 0, [0.01] * 5, set())
    with pytest.MonkeyPatch.context() as patch:
        gradient = TrainStep._gradient

        def poisoned(step: TrainStep, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
            batch.images.fill_(float("nan"))
            return gradient(step, batch, share)

        patch.setattr(TrainStep, "_gradient", poisoned)
        spoilt.run(BATCH, True)
    assert spoilt.bad_steps.tolist() == [True, False, False, False, False]
    for step in (spoilt, plain):
        run_steps(step, [0.01] * 5)
    assert torch.equal(spoilt.flat.master, plain.flat.master)
    averages = [step.ema.module.state_dict().values() for step in (spoilt, plain) if step.ema]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*averages, strict=True))
    assert all(torch.equal(spoilt.optimizer.states[name], state) for name, state in plain.optimizer.states.items())


def test_a_model_without_statistics_has_none_to_put_back() -> None:
    """None of other devices either: an empty buffer would lie on the CPU whatever the model's device is."""
    assert make_step(arch="mlp100", dropout=None, on_nonfinite="skip")._statistics_before() == []
    assert len(make_step(on_nonfinite="skip")._statistics_before() or []) == 2


def test_going_back_sets_a_damaged_checkpoint_aside(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not stand in the way of the one that is written at the same step later."""
    gradient, passes = TrainStep._gradient, itertools.count()

    def damage_and_poison(step: TrainStep, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        loss, logits = gradient(step, batch, share)
        if next(passes) == 2:
            (checkpoint_folders(run.checkpoints)[0] / "state.json").write_text("")
            loss.fill_(float("nan"))
        return loss, logits

    monkeypatch.setattr(TrainStep, "_gradient", damage_and_poison)
    run_inline([*TINY, "--epochs=1", "--on-nonfinite=rollback", "--checkpoint-seconds=0", f"--out={run.path}"], code=0)
    assert (run.checkpoints / "damaged-step-000000002").is_dir()
    assert all(load_checkpoint(path) for path in checkpoint_folders(run.checkpoints))


def test_an_average_that_is_not_finite_is_not_saved(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    step = TrainStep.run

    def spoil_the_average(self: TrainStep, count: int, perturbed: bool) -> None:
        step(self, count, perturbed)
        assert self.ema is not None
        self.ema.weights[0] = float("inf")

    monkeypatch.setattr(TrainStep, "run", spoil_the_average)
    run_inline([*TINY, "--epochs=1", "--ema-decay=0.9", "--checkpoint-seconds=0", f"--out={run.path}"], code=2)
    assert checkpoint_folders(run.checkpoints) == []
