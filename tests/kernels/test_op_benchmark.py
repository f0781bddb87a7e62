"""The op benchmark's verdicts, and that every implementation of every op runs at its smallest shape."""

from typing import Any

import pytest

from bench.ops_verdicts import LARGE_BYTES, WANTED, verdict_name, verdicts
from bench.ops_warm import run_once
from cifarfast.kernels.backend import registered
from cifarfast.kernels.testing.spec import all_specs

COPY = 4e12


def row(op: str, implementation: str, seconds: float, **figures: Any) -> dict[str, Any]:
    figures = {"largest_tensor_bytes": LARGE_BYTES + 1, "gigabytes_per_second": 3500.0, **figures}
    return {"op": op, "case": "c", "implementation": implementation, "median_seconds": seconds, **figures}


def test_verdicts() -> None:
    rows = [
        row("batch_norm_act", "cifarfast", 2e-3),
        row("batch_norm_act", "torch.compile", 1.9e-3),
        row("cross_entropy", "cifarfast", 1e-5, gigabytes_per_second=10.0),
        row("cross_entropy", "torch eager", 2.5e-5),
        row("conv2d", "cifarfast", 1e-3),
        row("conv2d", "library", 6e-4),
        row("flat_ema", "cifarfast", 1e-3, gigabytes_per_second=3300.0),
        {"name": "roofline", "bytes_per_second": COPY},
    ]
    found = {verdict["name"]: (verdict["value"], verdict["met"]) for verdict in verdicts(rows, COPY)}
    assert found == {
        "verdict | batch_norm_act c | share of copy bandwidth": (pytest.approx(0.875), True),
        "verdict | batch_norm_act c | times as fast as torch.compile": (pytest.approx(0.95), False),
        "verdict | cross_entropy c | times as fast as torch eager": (pytest.approx(2.5), True),
        "verdict | conv2d c | of the rate of cuDNN's convolution alone": (pytest.approx(0.6), False),
        "verdict | flat_ema c | share of copy bandwidth": (pytest.approx(0.825), False),
    }


def test_small_batch_norms_have_no_bandwidth_verdict() -> None:
    rows = [row("batch_norm_act", "cifarfast", 1e-3, largest_tensor_bytes=LARGE_BYTES)]
    assert not list(verdicts(rows, COPY))


def test_targets_are_about_ops_that_exist() -> None:
    assert {op for wanted in WANTED for op in wanted.ops} <= registered().keys()
    names = [verdict_name(op, "c", wanted) for wanted in WANTED for op in wanted.ops]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("spec_name", sorted(registered()))
def test_baselines_run(spec_name: str) -> None:
    spec = next(spec for spec in all_specs() if spec.name == spec_name)
    case = min(spec.benchmark_cases, key=len)
    run_once((spec_name, case, "cifarfast"), "cpu")
    run_once((spec_name, case, "torch eager"), "cpu")
    if spec.library and "cuDNN batch norm" not in spec.library[0]:
        run_once((spec_name, case, "library"), "cpu")
