"""Every op against torch eager, torch.compile and the best library op: forward and backward, at the networks' shapes.

A result that fails the op's tolerances is never timed. On a GPU a CUDA graph of many calls is timed, because training
replays graphs too: the cost of launching from Python is in none of the numbers. Inputs are warm in the L2 cache. The
roofline is that of a copy and of a matrix product measured in the same session.

Implementations come one after the other, ours first: whatever ends a session early, what matters most is there. With
``--save-each`` another session adds what is missing (``-k torch.compile``).
"""

import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.conftest import RECORDER
from bench.measure import Rates, quantiles
from bench.ops_verdicts import CONVOLUTIONS, verdicts
from bench.ops_warm import function_of, warm
from cifarfast.kernels import backend
from cifarfast.kernels.testing.check import assert_matches, to_float64, training_step
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker, all_specs
from cifarfast.kernels.tuning.tables import tile

# the last runs our convolutions also where the tuning table prefers cuDNN's
IMPLEMENTATIONS = ("cifarfast", "torch eager", "library", "torch.compile", "cifarfast kernels")
BEGIN_SECONDS = 540.0  # of a session on a GPU, after which nothing more begins
LEAST_TO_WARM = 8
WARM_SECONDS = 40.0
# a graph must take long beside the ~10 µs that starting and awaiting it take; a first call takes the host's time
GRAPH_SECONDS = 0.01
MOST_CALLS = 100
ROUNDS = 20
STARTED = time.monotonic()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    short = metafunc.config.getoption("--short")
    cases = [(spec, case) for spec in all_specs() for case in (short_cases if short else list)(spec.benchmark_cases)]
    metafunc.parametrize("implementation", IMPLEMENTATIONS, ids=lambda name: name.replace(" ", "-"))
    metafunc.parametrize(("spec", "case"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in cases])


def short_cases(names: Iterable[str]) -> list[str]:
    """One case of an op: the first with a batch of 512, if it has a batch."""
    names = list(names)
    return [next((name for name in names if re.search(r"(^| )512x", name)), names[0])]


@pytest.fixture(scope="session")
def warmed() -> set[str]:
    """The implementations that have been compiled ahead."""
    return set()


@pytest.fixture
def warm_caches(request: pytest.FixtureRequest, implementation: str, device: torch.device, warmed: set[str]) -> None:
    """Have what the session will compile of an implementation compiled, where that is worth several processes."""
    if device.type != "cuda" or implementation in warmed:
        return
    warmed.add(implementation)
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    parameters = [params for params in parameters if params.get("implementation") == implementation]
    wanted = [p for p in parameters if why_not(p["spec"], implementation, device) is None]
    if len(wanted) >= LEAST_TO_WARM:
        seconds = WARM_SECONDS if request.config.getoption("--short") else 4 * WARM_SECONDS
        warm([(p["spec"].name, p["case"], implementation) for p in wanted], seconds)


@pytest.mark.usefixtures("warm_caches")
def test_op(
    spec: OpSpec,
    case: str,
    implementation: str,
    device: torch.device,
    benchmark: Any,
    rates: Rates,
    record: Callable[[str, dict[str, Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reason = why_not(spec, implementation, device)
    if reason:
        pytest.skip(reason)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    inputs = spec.benchmark_cases[case](SampleMaker(dtype, device))
    if implementation == "cifarfast kernels":
        monkeypatch.setenv(backend.BACKEND_VARIABLE, "triton")
    if implementation.startswith("cifarfast"):
        # a CPU runs torch's convolutions, whose fp32 sums of thousands of products are off by more than a kernel's may
        exact = device.type != "cuda" and spec.name in CONVOLUTIONS
        assert_matches(spec, to_float64(inputs) if exact else inputs)
    step = training_step(function_of(spec, implementation), inputs, spec.differentiable)
    step()
    peak = peak_memory(step, device)
    timed, calls = graphed(step) if device.type == "cuda" else (step, 1)
    benchmark.group = f"{spec.name} {case}"
    benchmark.pedantic(timed, rounds=ROUNDS if device.type == "cuda" else 5, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable: only the check
        return
    seconds = quantiles([value / calls for value in benchmark.stats.stats.data])
    figures = {
        "op": spec.name,
        "case": case,
        "implementation": implementation,
        "mode": "forward+backward",
        "dtype": str(dtype).removeprefix("torch."),
        "median_seconds": seconds["median"],
        "quantile_20_seconds": seconds["p20"],
        "quantile_80_seconds": seconds["p80"],
        "peak_memory_bytes": peak,
        "largest_tensor_bytes": max(value.nbytes for value in inputs.values() if isinstance(value, Tensor)),
    }
    if implementation == "library":
        assert spec.library is not None
        figures["library"] = spec.library[0]  # it may do less, so no bandwidth
    else:
        figures |= bandwidth(spec, inputs, seconds["median"], rates)
    figures["teraflops_per_second"] = spec.flops(inputs) / seconds["median"] / 1e12
    record(f"{spec.name} {case} | {implementation}", figures)
    # with every row, as the session may be ended after any of them
    record("roofline", {"bytes_per_second": rates.bytes_per_second, "flops_per_second": rates.flops_per_second})


def test_verdicts(
    request: pytest.FixtureRequest,
    device: torch.device,
    rates: Rates,
    record: Callable[[str, dict[str, Any]], None],
) -> None:
    """Keep what the rows before say about the targets, on a GPU."""
    rows = list(request.config.stash[RECORDER].rows.get("ops", []))
    if not rows:
        pytest.skip("nothing was timed")
    if device.type == "cuda":
        for verdict in verdicts(rows, rates.bytes_per_second):
            record(verdict.pop("name"), verdict)


def why_not(spec: OpSpec, implementation: str, device: torch.device) -> str | None:
    """Why an implementation of an op is not timed on this device."""
    if implementation == "library" and spec.library is None:
        return "torch eager calls the library already"
    if implementation == "library" and device.type != "cuda" and "batch norm" in (spec.library or ("",))[0]:
        return "cuDNN needs a GPU"
    if implementation == "cifarfast kernels":
        if device.type != "cuda":
            return "needs a GPU"
        if spec.name not in CONVOLUTIONS or not tile(spec.name, 128, device)["library"]:
            return "the op runs its own kernels anyway"
    if device.type == "cuda" and time.monotonic() - STARTED > BEGIN_SECONDS:
        return "no time left"
    return None


def bandwidth(spec: OpSpec, inputs: Inputs, seconds: float, rates: Rates) -> dict[str, float]:
    """Bandwidth of the bytes that must move, and the part of the roofline that is reached."""
    moved = spec.bytes_moved(inputs)
    least = max(moved / rates.bytes_per_second, spec.flops(inputs) / rates.flops_per_second)
    return {"gigabytes_per_second": moved / seconds / 1e9, "roofline_percent": 100 * least / seconds}


def graphed(step: Callable[[], None]) -> tuple[Callable[[], None], int]:
    """A function that replays a graph of several steps and waits for them, and their number."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
        stream.synchronize()
        start = time.perf_counter()
        step()
        stream.synchronize()
        once = time.perf_counter() - start
    torch.cuda.current_stream().wait_stream(stream)
    calls = max(1, min(MOST_CALLS, math.ceil(GRAPH_SECONDS / once)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            step()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay, calls


def peak_memory(step: Callable[[], None], device: torch.device) -> int | None:
    """Bytes that a step allocates at most; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
