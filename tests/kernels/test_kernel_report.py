"""Compiling kernels for an architecture without a GPU."""

import dataclasses

import pytest

from cifarfast.kernels import report
from cifarfast.kernels.spec import all_specs

pytest.importorskip("triton")


def test_report_of_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--arch", "sm_90"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for spec in all_specs():
        kernels = {build.kernel.__name__ for build in spec.kernels() if "sm_90" in (build.archs or ("sm_90",))}
        assert kernels, spec.name
        assert all(any(f" {kernel} " in line for line in lines) for kernel in kernels), spec.name


def test_a_spill_or_too_much_shared_memory_is_a_problem() -> None:
    good = report.Compiled("k", "", "sm_80", 255, 0, 160 * 1024, "mma")
    assert good.problem is None
    assert "spills 8 bytes" in str(dataclasses.replace(good, spilled_bytes=8).problem)
    assert "shared memory" in str(dataclasses.replace(good, shared_bytes=164 * 1024).problem)
    assert dataclasses.replace(good, arch="sm_90", shared_bytes=164 * 1024).problem is None


def test_exit_code_of_a_spill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spilling = report.Compiled("k", "", "sm_90", 255, 64, 0, "-")
    monkeypatch.setattr(report, "compile_kernel", lambda build, arch: spilling)
    assert report.main(["--arch", "sm_90"]) == 1
    assert "spills 64 bytes a thread" in capsys.readouterr().out
