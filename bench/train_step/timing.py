"""Time, kernels and memory of steps that follow one another."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


class Clock:
    """The device's clock: events on a GPU, which it passes in order with its work, the host's clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def now(self) -> Any:
        """A moment; on a GPU that at which all work so far is done. Nothing waits."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, first: Any, last: Any) -> float:
        """From one moment to a later one; both must have come."""
        return first.elapsed_time(last) * 1e-3 if self._on_gpu else last - first

    def wait(self) -> None:
        """Let the device finish."""
        if self._on_gpu:
            torch.cuda.synchronize()


@dataclass
class StepTimes:
    """Seconds of steps in a row.

    Attributes:
        periods: from the start of each step to that of the next.
        gaps: from the end of each step to the start of the next.
    """

    periods: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @property
    def between(self) -> float:
        """Share of the time that lies between steps."""
        return sum(self.gaps) / sum(self.periods)


class Watch:
    """Notes when steps begin and end."""

    def __init__(self, device: torch.device) -> None:
        self.clock = Clock(device)
        self._moments: list[tuple[Any, Any]] = []

    def step(self, run: Callable[[], Any]) -> None:
        """Run a step between two moments."""
        begin = self.clock.now()
        run()
        self._moments.append((begin, self.clock.now()))

    def times(self, *, skip: int = 0, row: int | None = None) -> StepTimes:
        """The steps' times.

        Args:
            skip: steps to leave out at the beginning.
            row: steps that follow each other at once, such as those of an epoch; between rows something else is done.
        """
        self.clock.wait()
        times, row = StepTimes(), row or len(self._moments)
        for i in range(skip, len(self._moments) - 1):
            if (i + 1) % row:
                (begin, end), (next_begin, _) = self._moments[i], self._moments[i + 1]
                times.periods.append(self.clock.seconds(begin, next_begin))
                times.gaps.append(self.clock.seconds(end, next_begin))
        return times


class GpuEvent(NamedTuple):
    """A kernel, copy or memset as the profiler saw it, times in microseconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Profile:
    """What the GPU did in a step, on average."""

    kernels: float
    memory_operations: float
    busy_share: float
    """Part of the time from the first to the last event in which anything ran."""
    top: list[dict[str, Any]]
    """The kernels that took longest in all: name, calls and microseconds a step."""


def profile_steps(run: Callable[[], Any], steps: int) -> Profile:
    """Profile ``steps`` calls of ``run`` on a GPU."""
    with profile(activities=[ProfilerActivity.CUDA]):  # the profiler's own start is left out
        run()
        torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(steps):
            run()
        torch.cuda.synchronize()
    events = profiler.events() or []
    return summarise(
        (
            GpuEvent(event.name, event.time_range.start, event.time_range.end)
            for event in events
            if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        ),
        steps,
    )


def summarise(events: Iterable[GpuEvent], steps: int, top: int = 25) -> Profile:
    """Counts and times of the events of ``steps`` steps."""
    events = sorted(events, key=lambda event: event.start)
    kernels = [event for event in events if not event.name.startswith(("Memcpy", "Memset"))]
    calls: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in events:
        calls[event.name] += 1
        microseconds[event.name] += event.end - event.start  # type: ignore[assignment]
    return Profile(
        kernels=len(kernels) / steps,
        memory_operations=(len(events) - len(kernels)) / steps,
        busy_share=_busy(events),
        top=[
            {"name": name[:120], "calls": calls[name] / steps, "microseconds": total / steps}
            for name, total in microseconds.most_common(top)
        ],
    )


def _busy(events: Sequence[GpuEvent]) -> float:
    """Share of the time from the first event's start to the last one's end that is covered."""
    if not events:
        return 0.0
    covered, reached = 0.0, events[0].start
    for event in events:
        covered += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    span = reached - events[0].start
    return covered / span if span else 0.0


class PeakMemory:
    """Bytes that were allocated and reserved at most since the object was made; zeros on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    def figures(self) -> dict[str, int | None]:
        """``peak_memory_bytes`` and ``reserved_memory_bytes``."""
        if not self._on_gpu:
            return {"peak_memory_bytes": None, "reserved_memory_bytes": None}
        allocated, reserved = self._before
        return {
            "peak_memory_bytes": torch.cuda.max_memory_allocated() - allocated,
            "reserved_memory_bytes": torch.cuda.max_memory_reserved() - reserved,
        }
