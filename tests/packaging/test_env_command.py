"""``python -m cifarfast.env``: the state of csrc and the backend of every op, without compiling anything."""

from pathlib import Path

import pytest
from installs import Environment, copy_checkout, stub_csrc

from cifarfast.commands.env import main
from cifarfast.kernels.backend import registered
from cifarfast.runs.environment import collect_environment
from cifarfast.runtime import native_build

PROBE = """
import torch
from cifarfast.kernels import cross_entropy
from cifarfast.env import main
logits = torch.tensor([[2.0, 0.0, 0.0]])
assert torch.allclose(cross_entropy(logits, torch.tensor([0])), -logits.log_softmax(1)[0, 0])
raise SystemExit(main([]))
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which nothing was built, in the place of the one under test."""
    checkout = stub_csrc(copy_checkout(tmp_path / "checkout"))
    monkeypatch.setattr(native_build, "_PACKAGE", checkout / "cifarfast")
    monkeypatch.setattr(native_build, "_loaded", None)
    monkeypatch.setenv("CIFARFAST_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CIFARFAST_BUILD_CUDA", "CIFARFAST_BACKEND", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return checkout


def csrc_line(capsys: pytest.CaptureFixture[str]) -> str:
    assert main([]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    (line,) = (line for line in shown.out.splitlines() if line.startswith("csrc "))
    return line.removeprefix("csrc").strip()


def test_csrc_before_and_after_its_build(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIFARFAST_BUILD_CUDA", "0")
    before = csrc_line(capsys)
    assert before == "not compiled yet: first use compiles csrc without CUDA: CIFARFAST_BUILD_CUDA is 0"
    assert collect_environment()["native"] == before
    assert not (tmp_path / "cache").exists()
    assert native_build.load() is not None
    assert csrc_line(capsys) == "compiled without CUDA: CIFARFAST_BUILD_CUDA is 0"
    monkeypatch.setattr(native_build, "_loaded", None)  # as a later process sees it
    assert csrc_line(capsys) == "compiled without CUDA: CIFARFAST_BUILD_CUDA is 0"


def test_csrc_without_a_compiler(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    reason = "no C++ compiler: CXX is '/nonexistent', which is not there"
    assert csrc_line(capsys) == f"absent: {reason}; the torch implementation is used"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CIFARFAST_BUILD_CUDA", "banana", "CIFARFAST_BUILD_CUDA must be auto, 0 or 1, got 'banana'"),
        ("CIFARFAST_BACKEND", "banana", "CIFARFAST_BACKEND='banana' is not a backend; allowed: cuda, triton, torch"),
    ],
)
def test_a_wrong_setting_is_one_line(
    variable: str,
    value: str,
    message: str,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert main([]) == 2
    assert capsys.readouterr().err == f"cifarfast: {message}\n"


def test_every_op_is_listed_with_its_backend_and_why(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    _, _, ops = capsys.readouterr().out.partition("\nops\n")
    rows = [line.split(maxsplit=2) for line in ops.splitlines()]
    assert [op for op, _, _ in rows] == sorted(registered())
    assert all(backend in registered()[op] and reason for op, backend, reason in rows)


@pytest.mark.slow
def test_without_triton(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    (tmp_path / "broken" / "triton").mkdir(parents=True)
    (tmp_path / "broken" / "triton" / "__init__.py").write_text("raise ImportError('no triton here')\n")
    environment = Environment.create(
        tmp_path / "venv", PYTHONPATH=f"{tmp_path / 'broken'}:{checkout}", CUDA_VISIBLE_DEVICES=""
    )
    shown = environment.run(environment.python, "-c", PROBE, cwd=tmp_path)
    assert "  cross_entropy          torch   tensors on cpu\n" in shown.stdout
    assert shown.stderr == ""
    call = [environment.python, "-m", "cifarfast.env"]
    forced = environment.run(*call, cwd=tmp_path, fails=True, CIFARFAST_BACKEND="triton", TRITON_INTERPRET="1")
    assert forced.returncode == 2
    assert "triton cannot be imported" in forced.stderr
    assert forced.stderr.count("\n") == 1
