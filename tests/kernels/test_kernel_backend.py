"""Which backend is chosen, how it is forced, and what an impossible wish says."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cifarfast.kernels import backend

CPU = torch.device("cpu")


@pytest.fixture
def op(monkeypatch: pytest.MonkeyPatch) -> str:
    """An op of its own, with nothing forced from outside."""
    monkeypatch.delenv(backend.BACKEND_VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(backend._registered, "example", ("triton", "torch"))
    return "example"


def test_cpu_tensors_run_in_torch(op: str) -> None:
    assert backend.choose(op, CPU) == backend.Choice("torch", "tensors on cpu")


def test_forced_torch(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.BACKEND_VARIABLE, "torch")
    assert backend.choose(op, CPU) == backend.Choice("torch", "forced by CIFARFAST_BACKEND", forced=True)


def test_interpreted_triton(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.BACKEND_VARIABLE, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    choice = backend.choose(op, CPU)
    assert choice.backend == "triton"
    assert "interpreter" in choice.reason


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ("tritn", r"CIFARFAST_BACKEND='tritn' is not a backend; allowed: cuda, triton, torch"),
        ("cuda", r"CIFARFAST_BACKEND='cuda': example has no such backend; allowed: triton, torch"),
        ("triton", r"CIFARFAST_BACKEND='triton' cannot run example on cpu: needs a CUDA device; TRITON_INTERPRET=1"),
    ],
)
def test_impossible_wishes(op: str, forced: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.BACKEND_VARIABLE, forced)
    with pytest.raises(ValueError, match=message):
        backend.choose(op, CPU)


def test_unknown_op() -> None:
    with pytest.raises(KeyError, match=r"no op 'nothing'; known: .*cross_entropy"):
        backend.choose("nothing", CPU)


def test_gpu_takes_the_first_backend_that_runs(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend._registered, "three", ("cuda", "triton", "torch"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(backend, "extension_importable", lambda: False)
    device = torch.device("cuda", 97)
    assert backend.choose(op, device) == backend.Choice("triton", "first choice on cuda")
    assert backend.choose("three", device).backend == "triton"
    assert backend.choose("three", device).reason.startswith("no cuda: the compiled extension")


def test_old_gpu_and_no_triton_fall_back_to_torch(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    old = backend.choose(op, torch.device("cuda", 98))
    assert old.backend == "torch"
    assert "7.5" in old.reason
    monkeypatch.setattr(backend, "triton_importable", lambda: False)
    missing = backend.choose(op, torch.device("cuda", 99))
    assert missing == backend.Choice("torch", "no triton: triton cannot be imported")


def test_explain_lists_every_op() -> None:
    assert [op for op, _ in backend.explain()] == sorted(backend.registered())


def test_debug_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv(backend.DEBUG_VARIABLE, value)
        assert backend.debug_checks() is expected


def test_library_runs_without_triton() -> None:
    """With triton missing the library imports, says so, and runs on torch; importing it never imports triton."""
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, cifarfast.kernels as k\n"
        "print(k.cross_entropy(torch.zeros(2, 10), torch.tensor([1, 2])).item())\n"
        "assert not [m for m in sys.modules if m.startswith('triton.')]\n"
    )
    root = Path(__file__).parent.parent.parent
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("2.302")
