"""What is timed on a GPU, with a GPU that only has a clock: units, what is left out, how often graphs replay."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from bench import measure
from bench.measure import seconds_a_call
from bench.test_ops import MOST_CALLS, graphed
from bench.train_step.timing import Watch
from cifarfast.kernels.tuner.measure import seconds_a_step

CUDA = torch.device("cuda")


class FakeGpu:
    """Work takes ``seconds``; launching it takes the host nothing. A graph repeats what was recorded."""

    def __init__(self) -> None:
        self.now, self.calls, self.replays = 100.0, 0, 0

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.calls += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = gpu.now

        def synchronize(self) -> None: ...

        def elapsed_time(self, later: "Event") -> float:
            return 1e3 * (later.at - self.at)

    class Graph:
        seconds = 0.0

        def replay(self) -> None:
            gpu.replays += 1
            gpu.now += self.seconds

    class Stream:
        def wait_stream(self, other: "Stream") -> None: ...

        def synchronize(self) -> None: ...

    @contextlib.contextmanager
    def graph(graph: Graph) -> Iterator[None]:
        before = gpu.now
        yield
        graph.seconds, gpu.now = gpu.now - before, before

    for name, fake in {
        "Event": Event,
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": Stream,
        "graph": graph,
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return gpu


def test_seconds_a_call(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "WAKE_SECONDS", 0.01)
    slow_at_first = iter([5.0, 3.0, 1.0])
    assert seconds_a_call(lambda: gpu.work(next(slow_at_first, 0.002)), CUDA) == pytest.approx(0.002)
    assert gpu.calls > 23  # 3 to compile, some to wake it, 20 timed


def test_a_row_of_the_tuner(gpu: FakeGpu) -> None:
    for seconds, calls in ((1e-6, 200), (3e-4, 7), (0.5, 1)):
        before = gpu.calls
        assert seconds_a_step(lambda seconds=seconds: gpu.work(seconds)) == pytest.approx(seconds)
        assert gpu.calls - before == 2 + 1 + calls  # to compile, in a graph of its own, in that which is timed
    assert gpu.replays == 3 * (3 + 8)


def test_a_graph_of_an_op(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.test_ops.time.perf_counter", lambda: gpu.now)
    for seconds, calls in ((1e-6, MOST_CALLS), (3e-4, 34), (0.5, 1)):
        replay, found = graphed(lambda seconds=seconds: gpu.work(seconds))
        assert found == calls
        before = gpu.now
        replay()
        assert gpu.now - before == pytest.approx(calls * seconds)


def test_steps_that_follow_one_another(gpu: FakeGpu) -> None:
    watch = Watch(CUDA)
    for _ in range(4):
        watch.step(lambda: gpu.work(0.01))
        gpu.work(0.001)
    times = watch.times(skip=1)
    assert times.periods == pytest.approx([0.011] * 2)
    assert times.between == pytest.approx(1 / 11)
