"""What the benchmarks share: quantiles, and the rates of the machine they run on."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

WAKE_SECONDS = 0.3


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """20 %, 50 % and 80 % quantiles as ``p20``, ``median``, ``p80``."""
    if len(values) == 1:
        return dict.fromkeys(("p20", "median", "p80"), values[0])
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return {"p20": fifths[0], "median": statistics.median(values), "p80": fifths[3]}


@dataclass(frozen=True)
class Rates:
    """What a device does at best.

    Args:
        flops_per_second: of a large matrix product; bf16 on a GPU, fp32 on a CPU.
        bytes_per_second: of a large copy, bytes read and bytes written counted.
    """

    flops_per_second: float
    bytes_per_second: float


def measure_rates(device: torch.device) -> Rates:
    """The rates of a device, measured now on random data."""
    return Rates(_matmul_rate(device), copy_bandwidth(device))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy of 1 GiB, of 64 MiB on a CPU."""
    size = 1 << (30 if device.type == "cuda" else 26)
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds_a_call(lambda: target.copy_(source), device)


def _matmul_rate(device: torch.device) -> float:
    """FLOP a second of an 8192³ product in bf16, on a CPU of 1024³ in fp32."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    # on zeros a matrix unit runs faster than it ever does in training
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds_a_call(lambda: a @ b, device)


def seconds_a_call(call: Callable[[], object], device: torch.device, calls: int = 20, warm_up: int = 3) -> float:
    """Mean time of ``call`` over ``calls`` in a row, without what the host adds."""
    for _ in range(warm_up):
        call()
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls
    _wake(call)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        call()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) * 1e-3 / calls


def _wake(call: Callable[[], object]) -> None:
    """Keep the GPU busy until its clocks, which are low while it idles, are where they stay in a training."""
    end = time.perf_counter() + WAKE_SECONDS
    while time.perf_counter() < end:
        call()
        torch.cuda.synchronize()
