"""csrc/ under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer: no access outside a buffer, no race.

The driver runs random programs, shapes and out-of-range indices through the CPU twin, and through the code path of a
GPU's thread block with a crew of CPU threads in its place; the results must be equal.
"""

import subprocess
from pathlib import Path

import pytest

from cifarfast.runtime import native_build

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"


@pytest.mark.slow
@pytest.mark.parametrize(("sanitizer", "cases", "crew"), [("address,undefined", 200, 3), ("thread", 80, 4)])
def test_driver(tmp_path, sanitizer, cases, crew):
    try:
        compiler = native_build.find_toolchain(has_gpu=False).cxx
    except native_build.BuildError as error:
        pytest.skip(str(error))
    program = tmp_path / "driver"
    command = [compiler, "-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fno-omit-frame-pointer", "-Wall", "-Wextra"]
    command += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{CSRC}", f"-I{HERE}", "-pthread"]
    command += [str(HERE / "driver.cpp"), str(CSRC / "augment_cpu.cpp"), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip(f"the compiler has no {sanitizer} sanitizer")
    assert built.returncode == 0, built.stderr
    assert "warning" not in built.stderr
    done = subprocess.run([str(program), str(cases), str(crew)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.endswith(f"{cases} cases\n")
