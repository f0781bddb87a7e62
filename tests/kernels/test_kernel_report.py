"""Compiling kernels for an architecture without a GPU."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from cifarfast import kernels
from cifarfast.kernels.testing import compile_report as report
from cifarfast.kernels.testing.recorder import names
from cifarfast.kernels.testing.spec import all_specs
from cifarfast.kernels.tuning import tables as tuning

pytest.importorskip("triton")

GOOD = report.Compiled("k", "", "sm_80", 255, 0, 160 * 1024, "mma")


def test_report_of_an_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--arch", "sm_90", "--op", "flat_ema", "flat_lookahead", "--jobs", "1"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    for op, kernel in (("flat_ema", "flat_ema_kernel"), ("flat_lookahead", "flat_lookahead_kernel")):
        kernels = names(build.launch for build in report.builds([op], ["sm_90"]))
        assert kernel in kernels
        assert all(any(f" {kernel} " in line for line in lines) for kernel in kernels), op
    assert f"{len(lines) - 1} kernels, 0 with problems" in err


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("arch", list(report.SHARED_LIMITS))
def test_report_of_every_kernel(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--arch", arch]) == 0
    out = capsys.readouterr().out
    assert all(f" {kernel} " in out for kernel in all_kernels())


def test_every_kernel_is_in_the_report() -> None:
    launched = {build.launch.kernel for build in report.builds([spec.name for spec in all_specs()], ["sm_90"])}
    assert {kernel.rpartition(":")[2] for kernel in launched} == all_kernels()


def all_kernels() -> set[str]:
    """The names of the kernels that are defined in this library."""
    sources = Path(kernels.__file__).parent.rglob("*.py")
    return {
        name for source in sources for name in re.findall(r"^@.+\ndef (\w+_kernel)\(", source.read_text(), re.MULTILINE)
    }


def test_what_is_a_problem() -> None:
    assert GOOD.problem is None
    assert "spills 8 bytes" in str(dataclasses.replace(GOOD, spilled_bytes=8).problem)
    assert "shared memory" in str(dataclasses.replace(GOOD, shared_bytes=164 * 1024).problem)
    on_hopper = dataclasses.replace(GOOD, arch="sm_90", shared_bytes=164 * 1024)
    assert on_hopper.problem is None
    assert "shared memory" in str(dataclasses.replace(on_hopper, shared_bytes=228 * 1024).problem)
    needs = dataclasses.replace(on_hopper, needs_wgmma=True)
    assert needs.problem == "does not use wgmma"
    assert dataclasses.replace(needs, tensor_instruction="wgmma").problem is None
    assert dataclasses.replace(needs, arch="sm_100").problem is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"spilled_bytes": 64}, "spills 64 bytes a thread"),
        ({"shared_bytes": 300 * 1024}, "needs more than 232448 bytes of shared memory"),
        ({"needs_wgmma": True}, "does not use wgmma"),
    ],
)
def test_exit_code(
    fault: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = dataclasses.replace(GOOD, arch="sm_90", **fault)
    monkeypatch.setattr(report, "compile_kernel", lambda build: faulty)
    assert report.main(["--arch", "sm_90", "--op", "flat_ema", "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert message in out
    assert "1 kernels, 1 with problems" in err


def test_every_wide_convolution_tile_must_have_wgmma() -> None:
    convolutions = ["bn_act_conv2d", "conv2d_bn_act", "conv2d"]
    launches = [build.launch for build in report.builds(convolutions, ["sm_90"]) if "conv_" in build.launch.name]
    tiles = [launch for launch in launches if {"PIXELS_RIGHT", "TAPS"} & set(launch.settings)]
    assert any(report.needs_wgmma(launch) for launch in tiles)
    for launch in tiles:
        written = launch.settings["BLOCK_C" if "KERNEL_H" in launch.settings else "BLOCK_K"]
        assert report.needs_wgmma(launch) == (written >= 64 and "reduce" not in launch.name), launch


def test_a_models_own_tiles_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = json.loads(tuning.table_path("default").read_text())
    (tmp_path / "default.json").write_text(json.dumps(table))
    own = {"flat_ema": [{"up_to": 1 << 40, "block": 512, "num_warps": 2}]}
    (tmp_path / "nvidia-h200.json").write_text(json.dumps(own))
    monkeypatch.setattr(tuning, "_FOLDER", tmp_path)
    tuning.clear()
    try:
        blocks = {}
        for arch in ("sm_80", "sm_90"):
            (build,) = report.builds(["flat_ema"], [arch])
            blocks[arch] = build.launch.settings["BLOCK"]
    finally:
        tuning.clear()
    assert blocks == {"sm_80": table["flat_ema"][0]["block"], "sm_90": 512}


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--arch", "sm_75"], ["--op", "softmax"], ["--jobs", "0"]):
        with pytest.raises(SystemExit) as exit_:
            report.main(arguments)
        assert exit_.value.code == 2
        assert arguments[1] in capsys.readouterr().err
