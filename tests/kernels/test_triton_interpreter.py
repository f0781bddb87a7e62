"""Runs the generated tests of the Triton kernels on the CPU, in a process of their own.

Triton decides when it is imported whether kernels are interpreted, for the whole process; in this one other tests
compile them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cifarfast.kernels import backend

pytest.importorskip("triton")

FOLDER = Path(__file__).parent


SHARED = ("test_op_specs.py",)
OF_SEVERAL = [f"test_{name}.py" for name in ("draws", "gradients", "modules", "pooling", "statistics")]
OWN = (
    "test_kernel_tune_measure.py",
    "test_last_block.py",
    *OF_SEVERAL,
    *(f"test_{op}.py" for op in backend.registered()),
)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="already interpreted")
@pytest.mark.parametrize(
    ("names", "marked", "least"),
    [
        pytest.param(SHARED, "not slow", 60, id="shared", marks=pytest.mark.slow),
        pytest.param(SHARED, "slow", 80, id="shared rest", marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(OWN, "not slow", 80, id="own", marks=pytest.mark.slow),
    ],
)
def test_kernels_in_the_interpreter(names: tuple[str, ...], marked: str, least: int) -> None:
    paths = [FOLDER / name for name in names]
    existing = [str(path) for path in paths if path.is_file()]
    options = ["-q", "-k", "triton-cpu and not inductor", "-m", marked, "-p", "no:cacheprovider"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *existing, *options],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed, result.stdout
    assert int(passed[1]) > least, result.stdout
