"""When a function is run, recorded and replayed; the recording itself needs a GPU and is stood in for here."""

import pytest
import torch

from cifarfast.capture import Graphs, culprit


class Recorder(Graphs):
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


def test_first_as_it_is_then_recorded_then_replayed() -> None:
    graphs, calls = Recorder(), []
    for key in ("a", "a", "b", "a", "b", "a"):
        assert graphs.run(key, lambda key=key: calls.append(key) or key) == key  # type: ignore[misc]
    assert graphs.notes == ["beside", "record", "replay", "beside", "replay", "record", "replay", "replay"]
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
    graphs = Graphs(torch.device("cpu"), enabled=True)
    assert not graphs.enabled
    assert [graphs.run("a", lambda: 7) for _ in range(3)] == [7, 7, 7]
