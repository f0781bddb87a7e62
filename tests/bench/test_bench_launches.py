"""The kernels of a step, counted on networks so small that they can be counted by hand."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench import launches
from bench.launches import Launches, count_step
from bench.train_step.cases import Case
from cifarfast.kernels import backend
from cifarfast.kernels.testing.recorder import record
from cifarfast.models import create_model

pytest.importorskip("triton")
TINY = ("wrn10_1", "pyramidnet8_a6_shakedrop")


def per_kernel(found: Launches, kind: str = "triton") -> dict[str, int]:
    return {name: count for k, name, count, _ in found.rows() if k == kind}


@pytest.fixture(scope="module")
def counted() -> dict[tuple[str, str], Launches]:
    return {(arch, how): count_step(Case(arch, how, 4), "library") for arch in TINY for how in ("sgd", "asam")}


@pytest.mark.parametrize("arch", TINY)
def test_two_passes_launch_twice_what_one_does(arch: str, counted: dict[tuple[str, str], Launches]) -> None:
    one, two = counted[arch, "sgd"], counted[arch, "asam"]
    network = {name: count for name, count in per_kernel(one).items() if not name.startswith("flat_")}
    assert sum(network.values()) > 20
    again = per_kernel(two)
    # the second pass leaves the running statistics as they are; nothing else of the network may differ
    assert {name: again[name] for name in network} == {name: 2 * count for name, count in network.items()}
    assert set(again) - set(per_kernel(one)) <= {"flat_perturb_kernel", *_norms(again)}
    assert 2 * one.total - 60 < two.total < 2 * one.total + 20
    assert one.of("cuda") == two.of("cuda") == 1


def _norms(names: dict[str, int]) -> set[str]:
    return {name for name in names if name.startswith("flat_norm")}


@pytest.mark.parametrize("arch", TINY)
def test_each_convolution_once_a_pass(arch: str, counted: dict[tuple[str, str], Launches]) -> None:
    layers = sum(isinstance(module, torch.nn.Conv2d) for module in create_model(arch).modules())
    for how, passes in (("sgd", 1), ("asam", 2)):
        found = counted[arch, how]
        assert found.of("torch", "convolution") == found.of("torch", "convolution_backward") == passes * layers


def test_a_longer_network_launches_more_for_each_block(counted: dict[tuple[str, str], Launches]) -> None:
    """Every block of a PyramidNet is the same but for the two that halve the size, which all of these have."""
    counts = [counted["pyramidnet8_a6_shakedrop", "sgd"]]
    counts += [count_step(Case(f"pyramidnet{8 + 6 * i}_a6_shakedrop", "sgd", 4), "library") for i in (1, 2)]
    for kind in ("triton", "torch"):
        first, second, third = (Counter(per_kernel(found, kind)) for found in counts)
        assert second - first == third - second
    assert counts[1].total > counts[0].total


def test_convolutions_by_our_kernels(counted: dict[tuple[str, str], Launches]) -> None:
    ours = count_step(Case("wrn10_1", "sgd", 4), "triton")
    library = counted["wrn10_1", "sgd"]
    kernels = [name for name in per_kernel(ours) if name.startswith("conv") and "fwd" in name]
    assert kernels
    launched = sum(per_kernel(ours)[name] for name in kernels)
    assert ours.of("torch", "convolution") + launched == library.of("torch", "convolution")
    assert not [name for name in per_kernel(library) if name in kernels]


def test_a_larger_batch_launches_as_much(
    counted: dict[tuple[str, str], Launches], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "IMAGES", 8)
    for arch in TINY:
        larger = count_step(Case(arch, "asam", 4), "library")
        assert {row[:3] for row in larger.rows()} == {row[:3] for row in counted[arch, "asam"].rows()}


def test_where_they_come_from(counted: dict[tuple[str, str], Launches]) -> None:
    assert not {"item", "aminmax"} & set(per_kernel(counted["wrn10_1", "sgd"], "torch"))  # a CPU's check of the labels
    for _, name, _, places in counted["wrn10_1", "sgd"].rows():
        assert places.startswith(("cifarfast/", "kernels/")), name
    text = launches.table(counted["wrn10_1", "sgd"])
    assert "| `convolution` | torch | 9 | cifarfast/models/fused/layers.py:" in text
    total = counted["wrn10_1", "sgd"].total
    assert text.splitlines()[-1].startswith(f"{total} in all: ")
    assert sum(int(line.split("|")[3]) for line in text.splitlines()[2:] if line.startswith("|")) == total


def test_what_is_counted() -> None:
    @torch.library.custom_op("cifarfast::counted_in_a_test", mutates_args=())
    def op(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x).copy_(x).mul_(2)

    counts: launches.Counts = Counter()
    with launches._Counting(counts), record():
        x = torch.empty(4, 3).view(2, 6)[0].detach()
        assert not counts
        op(x.new_zeros(5)).sum().item()
    assert {name: count for (_, name, _), count in counts.items()} == {"new_zeros": 1, "copy_": 1, "mul_": 1, "sum": 1}


def test_all_is_as_before(counted: dict[tuple[str, str], Launches]) -> None:
    assert backend.choose("batch_norm_act", torch.device("cpu")).backend == "torch"
    weights = create_model("wrn10_1")(torch.randn(2, 3, 32, 32))
    assert torch.isfinite(weights).all()


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert launches.main(["--arch", "wrn10_1", "--optimizer", "sgd"]) == 0
    assert "| `augment` | cuda | 1 |" in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        launches.main(["--arch", "wrn10_x"])
    assert error.value.code == 2
    assert "wrn10_x" in capsys.readouterr().err
    monkeypatch.setattr(launches, "TARGETED", [Case("wrn10_1", "sgd", 512), Case("wrn10_1", "sgd", 128)])
    document = json.loads(launches.save(tmp_path).read_text())
    assert document["environment"]["packages"]["torch"]
    assert [row["name"] for row in document["rows"]] == ["wrn10_1 sgd | library", "wrn10_1 sgd | triton"]
    for row in document["rows"]:
        assert row["launches"] == row["triton"] + row["cuda"] + row["torch"]
        assert row["launches"] == sum(kernel["launches"] for kernel in row["kernels"])
