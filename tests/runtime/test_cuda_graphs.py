"""When a function is run, recorded and replayed; the recording itself needs a GPU and is stood in for here."""

import contextlib
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from cifarfast.runtime.cuda_graphs import CUDAGraphs, culprit


class Recorder(CUDAGraphs):
    """Takes notes instead of recording."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(torch.device("cpu"), enabled=True)
        self.enabled, self.fails, self.notes = True, fails, []  # type: ignore[var-annotated]

    def _beside(self, function):  # type: ignore[no-untyped-def]
        self.notes.append("beside")
        return function()

    def _record(self, function):  # type: ignore[no-untyped-def]
        self.notes.append("record")
        if self.fails:
            int_of_a_tensor = torch.tensor([1, 2]).item
            int_of_a_tensor()
        notes = self.notes

        class Graph:
            def replay(self) -> None:
                notes.append("replay")

        return Graph(), function()


def test_first_as_it_is_and_recorded_then_replayed() -> None:
    graphs, calls = Recorder(), []
    for key in ("a", "a", "b", "a", "b", "a"):
        assert graphs.run(key, lambda key=key: calls.append(key) or key) == key  # type: ignore[misc]
    assert graphs.notes == ["beside", "record", "replay", "beside", "record", "replay", "replay", "replay"]
    assert calls == ["a", "a", "b", "b"]


def test_what_cannot_be_recorded_runs_uncaptured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    graphs, calls = Recorder(fails=True), []
    for _ in range(4):
        graphs.run("a", lambda: calls.append(1))
    assert len(calls) == 4
    assert graphs.notes == ["beside", "record"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "`int_of_a_tensor()`" in said
    assert f"{__file__}:" in said


def test_the_first_error_of_a_chain_is_the_culprit() -> None:
    def fail() -> None:
        try:
            torch.zeros(2).view(3)
        finally:
            raise RuntimeError("the recording is not valid")

    with pytest.raises(RuntimeError) as error:
        fail()
    assert culprit(error.value).startswith("`torch.zeros(2).view(3)`")


def test_on_a_cpu_nothing_is_recorded() -> None:
    graphs = CUDAGraphs(torch.device("cpu"), enabled=True)
    assert not graphs.enabled
    assert [graphs.run("a", lambda: 7) for _ in range(3)] == [7, 7, 7]


def test_the_second_try_does_not_find_the_memory_of_the_first_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    taken: list[weakref.ref[torch.Tensor]] = []

    class Failing(Recorder):
        def _record(self, function):  # type: ignore[no-untyped-def]
            tensor = torch.zeros(3)
            taken.append(weakref.ref(tensor))
            return tensor.view(2), None

    graphs = Failing()
    assert [graphs.run("a", lambda: [tensor() is None for tensor in taken]) for _ in range(2)] == [[], [True]]


# recording, with a stand-in for torch's part of it


class Driver:
    """Notes what ``CUDAGraphs`` calls of torch's. ``capture_end`` fails when ``broken`` is set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.notes: list[str] = []
        self.broken, self.recorded = False, False
        for name in ("synchronize", "empty_cache"):
            patch.setattr(torch.cuda, name, lambda: None)
        patch.setattr(torch.cuda, "Stream", lambda _: SimpleNamespace(wait_stream=lambda _: self.note("to the side")))
        patch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(wait_stream=lambda _: self.note("back")))
        patch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
        patch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        patch.setattr(torch.cuda, "default_generators", (self,))
        patch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *_: self.note("pool left"), raising=False)
        patch.setattr(torch._C, "_cuda_releasePool", lambda *_: self.note("pool given back"), raising=False)

    def note(self, what: str) -> None:
        self.notes.append(what)

    def capture_begin(self, pool: object) -> None:
        self.note("begin")

    def capture_end(self) -> None:
        self.note("end")
        if self.broken:
            raise RuntimeError("the recording is not valid")

    def pool(self) -> None:
        if not self.recorded:
            raise RuntimeError("pool() without a recording")

    def replay(self) -> None:
        self.note("replay")

    def clone_state(self) -> None:
        return None

    def graphsafe_set_state(self, state: None) -> None:
        self.note("generator put back")

    def run(self, times: int, at_the_second: Callable[[], None] = lambda: None) -> list[str]:
        graphs, calls = CUDAGraphs(torch.device("cuda", 0), enabled=True), []

        def function() -> None:
            calls.append(1)
            self.note("function")
            if len(calls) == 2:
                at_the_second()

        for _ in range(times):
            graphs.run("a", function)
        return self.notes


FIRST = ["to the side", "function", "back"]


def test_the_first_call_and_the_recording_are_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Driver(monkeypatch).run(4) == [*FIRST, "begin", "function", "end", "replay", "replay", "replay"]


def test_a_recording_that_fails_is_undone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    driver = Driver(monkeypatch)

    def fail() -> None:
        driver.broken = True
        raise RuntimeError("operation not permitted")

    undone = ["end", "pool left", "pool given back", "generator put back"]
    assert driver.run(3, fail) == [*FIRST, "begin", "function", *undone, "function", "function"]
    assert "operation not permitted" in capsys.readouterr().err


def test_a_recording_of_which_no_graph_can_be_made_undoes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)

    def break_the_end() -> None:
        driver.broken, driver.recorded = True, True

    assert driver.run(3, break_the_end) == [*FIRST, "begin", "function", "end", "end", "function", "function"]
