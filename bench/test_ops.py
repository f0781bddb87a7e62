"""Every op against torch eager and torch.compile: forward and backward, at its benchmark shapes.

A result that fails the op's tolerances is never timed. On a GPU a CUDA graph of many calls is timed, because training
replays graphs too: the cost of launching from Python is in none of the numbers. Inputs are warm in the L2 cache.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cifarfast.kernels.check import assert_matches
from cifarfast.kernels.spec import Inputs, Maker, OpSpec, all_specs

CASES = [pytest.param(spec, case, id=f"{spec.name}-{case}") for spec in all_specs() for case in spec.benchmark_cases]
CALLS_PER_GRAPH = 20


@pytest.mark.parametrize("implementation", ["cifarfast", "torch eager", "torch.compile"])
@pytest.mark.parametrize(("spec", "case"), CASES)
def test_op(
    spec: OpSpec,
    case: str,
    implementation: str,
    device: torch.device,
    benchmark: Any,
    record: Callable[[str, dict[str, Any]], None],
) -> None:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    inputs = spec.benchmark_cases[case](Maker(dtype, device))
    if implementation == "cifarfast":
        function = spec.function
        assert_matches(spec, inputs)
    else:
        torch.compiler.reset()
        function = spec.eager if implementation == "torch eager" else torch.compile(spec.eager)
    step = training_step(spec, function, inputs)
    step()
    peak = peak_memory(step, device)
    timed, calls = (graphed(step), CALLS_PER_GRAPH) if device.type == "cuda" else (step, 1)
    benchmark.group = f"{spec.name} {case}"
    benchmark(timed)
    if benchmark.stats is None:  # --benchmark-disable: only the check
        return
    seconds = torch.tensor(benchmark.stats.stats.data, dtype=torch.float64) / calls
    low, median, high = seconds.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    figures = {
        "op": spec.name,
        "case": case,
        "implementation": implementation,
        "mode": "forward+backward",
        "dtype": str(dtype).removeprefix("torch."),
        "median_seconds": median,
        "quantile_20_seconds": low,
        "quantile_80_seconds": high,
        "gigabytes_per_second": spec.bytes_moved(inputs) / median / 1e9,
        "peak_memory_bytes": peak,
    }
    record(f"{spec.name} {case} {implementation}", figures)


def training_step(spec: OpSpec, function: Callable[..., Any], inputs: Inputs) -> Callable[[], None]:
    """One forward and backward with fixed cotangents; the gradients are thrown away."""
    names = [name for name in spec.differentiable if name in inputs]
    inputs = {**inputs, **{name: inputs[name].detach().requires_grad_() for name in names}}
    leaves = [inputs[name] for name in names]
    if not leaves:
        return lambda: function(**inputs)

    def forward() -> list[Tensor]:
        result = function(**inputs)
        return list(result) if isinstance(result, tuple) else [result]

    cotangents = [torch.ones_like(out) for out in forward()]

    def step() -> None:
        torch.autograd.grad(forward(), leaves, cotangents)

    return step


def graphed(step: Callable[[], None]) -> Callable[[], None]:
    """A function that replays ``CALLS_PER_GRAPH`` captured steps and waits for them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_PER_GRAPH):
            step()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


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
