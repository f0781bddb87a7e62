"""The machine code of the flat kernels: a pure stream of 16-byte accesses, without a GPU to run it on."""

import re

import pytest

from cifarfast.kernels import backend
from cifarfast.kernels.testing import compile_report as report

triton = pytest.importorskip("triton")

INTERPRETED = triton.knobs.runtime.interpret
# the partial sums end in a reduction, so they are no pure stream
OPS = [op for op in backend.registered() if op.startswith("flat_") and op != "flat_norm"]
QUICK = ("nadam", "sgd nesterov")  # of the optimizer's rules
STREAMS = [
    pytest.param(
        build,
        id=f"{build.launch.name}-{build.label}",
        marks=[pytest.mark.slow] if "optimizer" in build.launch.name and build.label not in QUICK else [],
    )
    for build in ([] if INTERPRETED else report.builds(OPS, ["sm_90"]))
    if build.launch.settings.get("EVEN") and build.launch.name != "flat_norm_kernel"
]


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels cannot be compiled")
@pytest.mark.parametrize("build", STREAMS)
def test_every_fp32_access_is_a_vector_and_nothing_goes_through_shared_memory(
    build: report.Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[str] = []
    inspect = report._inspect

    def keep_code(cubin: bytes) -> tuple[int, int, str]:
        registers, spilled, code = inspect(cubin)
        codes.append(code)
        return registers, spilled, code

    monkeypatch.setattr(report, "_inspect", keep_code)
    compiled = report.compile_kernel(build)
    assert compiled.problem is None
    assert compiled.shared_bytes == 0
    assert compiled.registers <= 64
    widths = re.findall(r"\bSTG\.E(?:\.(\d+))?", codes[0])
    assert set(widths) <= {"128", "64"}, "a store of single elements"
    assert "128" in widths
    assert not re.search(r"\b(LDL|STL|BAR)\b", codes[0])
