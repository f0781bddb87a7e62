"""Data-parallel training over two processes that talk through gloo, against one process."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from processes import Finished, InForeground, finish, run_inline, start_train, train, wait_until
from torch import nn
from tqdm import tqdm

from cifarfast.data import load_dataset
from cifarfast.errors import UserError
from cifarfast.models.layers import BatchNormReLU2d
from cifarfast.recipes.recipe import Recipe
from cifarfast.runs.checkpoint import checkpoint_folders, load_checkpoint
from cifarfast.runs.run_folder import RunFolder
from cifarfast.runtime.distributed import World, join_world, synchronise_batch_norms
from cifarfast.runtime.signals import StopRequest
from cifarfast.training.engine import Trainer

DATA = "--dataset=synthetic:classes=3,train=67,test=21"  # neither the last batch nor the test set halves evenly
SETTINGS = [DATA, "--epochs=3", "--batch-size=16", "--ema-decay=0.9", "--cutmix-alpha=1", "--device=cpu", "--quiet"]
WITHOUT_NORM = [*SETTINGS, f"{DATA},size=18", "--arch=cnn_tutorial", "--optimizer=adam"]
WITH_NORM = [*SETTINGS, "--arch=wrn10_1", "--dropout=0", "--lr=0.01", "--sam=asam", "--clip-norm=1", "--val-split=0.2"]


@dataclass(frozen=True)
class InWorld:
    """Gives a process torchrun's variables before it starts."""

    rank: int
    size: int
    port: int

    def __call__(self) -> None:
        InForeground()()
        names = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": self.size, "MASTER_PORT": self.port}
        os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_two(arguments: list[str], folder: Path) -> list[tuple[object, Path]]:
    port = free_port()
    return [
        (start_train(arguments, folder / f"log{rank}", prepare=InWorld(rank, 2, port)), folder / f"log{rank}")
        for rank in range(2)
    ]


def train_two(arguments: list[str], folder: Path) -> list[Finished]:
    return [finish(process, log) for process, log in start_two(arguments, folder)]  # type: ignore[arg-type]


def last_tensors(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return load_checkpoint(checkpoint_folders(run / "checkpoints")[0]).tensors


@pytest.mark.parametrize(
    "settings",
    [
        WITHOUT_NORM,
        [*WITH_NORM, "--sync-batch-norm"],
        [*WITHOUT_NORM, "--optimizer=sgd", "--lr=0.01", "--precision=fp16"],
        pytest.param([*WITHOUT_NORM, "--arch=cnn_dropout", "--mix-per=batch"], marks=pytest.mark.slow),
        pytest.param([*WITH_NORM, "--dropout=0.3", "--sync-batch-norm"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(settings: list[str], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert train([*settings, f"--out={one}"], tmp_path / "log").code == 0
    done = train_two([*settings, f"--out={two}"], tmp_path)
    assert [d.code for d in done] == [0, 0], done[1].stderr
    assert done[1].stdout == ""  # process 0 speaks for both
    assert "2 processes" in done[0].stdout
    assert RunFolder(two).read_environment()["processes"] == 2
    tolerance = 1e-3 if "--precision=fp16" in settings else 2e-5
    rows = [RunFolder(run).read_metrics() for run in (one, two)]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ("train_loss", "test_loss"):
            assert theirs[key] == pytest.approx(ours[key], rel=tolerance)
    weights = [last_tensors(run)["model"] for run in (one, two)]
    difference, size = (
        sum((weights[0][name].double() - sign * weights[1][name]).square().sum() for name in weights[0]).sqrt()
        for sign in (1, 0)
    )
    assert difference < 10 * tolerance * size
    logits, labels = RunFolder(two).read_predictions()
    assert (len(logits), labels.tolist()) == (21, RunFolder(one).read_predictions()[1].tolist())


@pytest.mark.slow
def test_without_synchronised_norms_the_results_differ(tmp_path: Path) -> None:
    losses = []
    for name, settings in (("a", WITH_NORM), ("b", [*WITH_NORM, "--sync-batch-norm"])):
        (tmp_path / name).mkdir()
        done = train_two([*settings, f"--out={tmp_path / name / 'run'}"], tmp_path / name)
        assert [d.code for d in done] == [0, 0], done[1].stderr
        losses.append(RunFolder(tmp_path / name / "run").read_metrics()[-1]["train_loss"])
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.slow
def test_stopped_or_killed_and_resumed(tmp_path: Path) -> None:
    settings = [*WITH_NORM, "--epochs=4", "--checkpoint-seconds=0"]
    reference, run = tmp_path / "reference", tmp_path / "run"
    assert [d.code for d in train_two([*settings, f"--out={reference}"], tmp_path)] == [0, 0]
    for signum, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        started = start_two([*settings, f"--out={run}", "--resume"], tmp_path)
        had = newest(run)
        wait_until(lambda had=had: newest(run) not in (had, None), started[0][0])  # type: ignore[arg-type, misc]
        for process, _ in started:
            os.kill(process.pid, signum)  # type: ignore[attr-defined]
        codes = [finish(process, log).code for process, log in started]  # type: ignore[arg-type]
        assert codes == [code, code]
    assert [d.code for d in train_two([*settings, f"--out={run}", "--resume"], tmp_path)] == [0, 0]
    ours, theirs = last_tensors(run), last_tensors(reference)
    for kind, tensors in theirs.items():
        assert all(torch.equal(ours[kind][name], tensor) for name, tensor in tensors.items()), kind
    assert (run / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()


def newest(run: Path) -> str | None:
    return next((path.name for path in checkpoint_folders(run / "checkpoints")), None)


def test_a_loss_that_is_not_finite_stops_both(tmp_path: Path) -> None:
    done = train_two([*WITHOUT_NORM, "--lr=1e30", f"--out={tmp_path / 'run'}"], tmp_path)
    assert [d.code for d in done] == [2, 2]
    assert "lower --lr" in done[0].stderr


def test_fewer_test_images_than_processes(tmp_path: Path) -> None:
    shake = "--arch=pyramidnet8_a6_shakedrop"  # its ops take no empty batch
    settings = ["--dataset=synthetic:classes=2,train=8,test=1", shake, "--epochs=1", "--batch-size=8", "--device=cpu"]
    done = train_two([*settings, "--quiet", f"--out={tmp_path / 'run'}"], tmp_path)
    assert [d.code for d in done] == [0, 0], done[0].stderr
    assert len(RunFolder(tmp_path / "run").read_predictions()[0]) == 1


@pytest.mark.parametrize("tracked", [True, False])
def test_synchronised_norms_do_not_meet_in_evaluation(tracked: bool) -> None:
    """Processes may evaluate different numbers of batches; there is no process group here to meet in."""
    plain = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=tracked), BatchNormReLU2d(3)).eval()
    model, x = copy.deepcopy(plain), torch.randn(4, 3, 2, 2)
    synchronise_batch_norms(model)
    assert torch.equal(model(x), plain(x))


def test_norms_that_compute_by_themselves_are_refused() -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.batch_norm(input, None, None, self.weight, self.bias, training=True)

    with pytest.raises(UserError, match=r"layer 1 \(Own\) does not use torch's batch norm"):
        synchronise_batch_norms(nn.Sequential(nn.BatchNorm2d(3), Own(3)))


def test_each_process_has_its_own_dropout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Trainer, "_pause", lambda trainer, stop: None)
    recipe = Recipe(dataset=DATA.removeprefix("--dataset="), arch="cnn_tutorial", batch_size=16, epochs=1)
    splits, seeds = load_dataset(recipe.dataset), []
    for rank in range(2):
        drawn: list[int] = []
        monkeypatch.setattr(Trainer, "train_step", lambda *_, drawn=drawn: drawn.append(torch.initial_seed()))
        run = RunFolder(tmp_path / str(rank))
        trainer = Trainer(recipe.resolved("cpu"), splits, run, world=World(rank, 2), show_progress=False)
        trainer._train_epoch(tqdm(disable=True), StopRequest())
        seeds += drawn
    assert len(set(seeds)) == len(seeds) == 2 * 5


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    arguments = ["-m", "cifarfast.train", *WITHOUT_NORM, "--epochs=1", f"--out={tmp_path / 'run'}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 1
    assert done.stdout.count("test accuracy") == 1


def test_a_batch_that_cannot_be_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cifarfast.training.train.join_world", lambda device: World(0, 4, 0))
    monkeypatch.setattr(World, "broadcast_text", lambda world, text: text)
    done = run_inline([DATA, "--arch=cnn_tutorial", "--batch-size=32", "--quiet", f"--out={tmp_path / 'run'}"], code=2)
    assert "a batch of 3 images cannot be split over 4 processes" in done.stderr


def test_a_world_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join_world("cpu") == World(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is set without 'RANK': start with torchrun"):
        join_world("cpu")


@pytest.mark.parametrize(("count", "size"), [(10, 1), (10, 3), (2, 2), (7, 4), (1, 3)])
def test_parts_cover_everything_once(count: int, size: int) -> None:
    worlds = [World(rank, size) for rank in range(size)]
    covered = [i for world in worlds for i in range(count)[world.shard(count)]]
    assert covered == list(range(count))
    items = torch.arange(count).double()
    shares = [items[world.shard(count)] for world in worlds]
    weighed = [
        world.shard_weight(count) * share.mean() for world, share in zip(worlds, shares, strict=True) if len(share)
    ]
    assert sum(weighed) / size == pytest.approx(items.mean().item())
    assert all(world.shard_weight(count) == 0 for world, share in zip(worlds, shares, strict=True) if not len(share))
