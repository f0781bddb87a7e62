"""Programs beside ours: a peer's table as it is printed, and which cases the memory checker sees."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.memcheck import by_size, check_op
from bench.train_step.peers import Peer, figures, finished_runs
from cifarfast.kernels.testing.spec import all_specs

PROGRAM = """
import pathlib, time, torch
data = torch.load("cifar10/train.pt")
assert data["images"].dtype == torch.uint8 and data["images"].shape[1:] == (32, 32, 3)
assert len(torch.load("cifar10/test.pt")["labels"]) == 10 and len(data["classes"]) == 10
print("Proxy parameters: 5")
print("-" * 40)
print("|  run     |  epoch  |  val_acc  |  tta_val_acc  |  time_seconds  |")
print("-" * 40)
for run in range({runs}):
    print("|  %6d  |      0  |   0.5000  |               |        1.0000  |" % run)
    print("|          |   eval  |   0.9300  |       0.94{{:02d}}  |        {{}}.5000  |".format(run, run + 1))
{end}
"""


def checkout(folder: Path, runs: int, end: str) -> Path:
    folder.mkdir()
    (folder / "peer.py").write_text(PROGRAM.format(runs=runs, end=end))
    return folder


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of CIFAR-10, which the peers train on."""
    from cifarfast.data import load_dataset

    small = load_dataset("synthetic:train=20,test=10")
    monkeypatch.setattr("bench.train_step.peers.load_dataset", lambda *_, **__: small)


def test_a_peer_is_read_until_it_has_run_enough(tmp_path: Path) -> None:
    started = time.monotonic()
    peer = Peer("peer.py", 94.0, runs=2, limit_seconds=60.0)
    row = peer.run(checkout(tmp_path / "theirs", 7, "time.sleep(60)"), tmp_path, tmp_path / "work")
    assert time.monotonic() - started < 40  # it would have gone on
    assert row["trainings"] == 2
    assert row["train_seconds"]["median"] == 3.0  # of 2.5 and 3.5: the first training is left out
    assert row["accuracy_percent"] == pytest.approx(94.015)
    assert row["accuracies_percent"] == pytest.approx([94.01, 94.02])
    assert row["data_official"] is False


@pytest.mark.slow
def test_a_peer_that_ends_early_or_never(tmp_path: Path) -> None:
    theirs = checkout(tmp_path / "theirs", 3, "raise SystemExit(1)")
    assert Peer("peer.py", 94.0, runs=5, limit_seconds=60.0).run(theirs, tmp_path, tmp_path / "a")["trainings"] == 2
    silent = checkout(tmp_path / "silent", 1, "print('compiling', flush=True); time.sleep(60)")
    with pytest.raises(RuntimeError, match=r"no training ended in 8 s.*compiling"):
        Peer("peer.py", 94.0, runs=5, limit_seconds=8.0).run(silent, tmp_path, tmp_path / "b")
    with pytest.raises(RuntimeError, match="is not there: --airbench takes"):
        Peer("absent.py", 94.0, runs=5, limit_seconds=4.0).run(silent, tmp_path, tmp_path / "c")


def test_the_other_peer_s_columns() -> None:
    lines = [
        "|  run     |  epoch  |  train_loss  |  tta_val_acc  |  total_time_seconds  |",
        "|       0  |      0  |      1.2000  |               |              9.0000  |",
        "|          |   eval  |      0.9000  |       0.9610  |             27.0000  |",
    ]
    (run,) = finished_runs(lines)
    row = figures(Peer("airbench96_faster.py", 96.0, 1, 1.0), [run])
    assert row["train_seconds"]["median"] == 27.0
    assert row["accuracy_percent"] == pytest.approx(96.1)


# the memory checker


def fake_op() -> Any:
    """An op of three cases of 1, 2 and 3 elements, given out of order."""
    sizes = {"middle": 2, "small": 1, "large": 3}
    return SimpleNamespace(
        name="op", cases={name: lambda maker, size=size: {"x": maker.randn(size)} for name, size in sizes.items()}
    )


def test_cases_run_until_every_kernel_was_launched() -> None:
    spec, seen = fake_op(), []
    launched = {"small": {"fwd", "other"}, "middle": {"fwd"}, "large": {"bwd"}}
    assert by_size(spec) == ["small", "middle", "large"]
    checked = check_op(spec, {"fwd", "bwd"}, lambda case: seen.append(case) or launched[case])
    assert seen == ["small", "middle", "large"]
    assert checked.cases == ["small", "large"]  # the one between launched nothing new
    assert checked.line() == "op: 2 of 2 kernels in small, large"
    seen.clear()
    assert check_op(fake_op(), {"fwd"}, lambda case: seen.append(case) or {"fwd"}).cases == seen == ["small"]


def test_kernels_that_no_case_launches_are_named() -> None:
    checked = check_op(fake_op(), {"fwd", "bwd"}, lambda case: {"fwd"})
    assert checked.line() == "op: 1 of 2 kernels in small; not launched: bwd"


@pytest.mark.parametrize("spec", all_specs(), ids=lambda spec: spec.name)
def test_every_op_has_cases_in_order_of_size(spec: Any) -> None:
    cases = by_size(spec)
    assert set(cases) == set(spec.cases)
    assert torch.bfloat16 in spec.dtypes or spec.dtypes
