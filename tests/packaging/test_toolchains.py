"""What is built with which compilers, what CIFARFAST_BUILD_CUDA asks for, and the line that says what is missing."""

import json
import shutil
from pathlib import Path

import pytest
from installs import Environment, build_lines, copy_checkout, stub_csrc

TRAIN = ["-m", "cifarfast.train", "--recipe", "quickstart", "--epochs", "1", "--limit-train", "64", "--quiet"]
LOAD = "import cifarfast._C as extension; print(extension.with_cuda)"
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return stub_csrc(copy_checkout(tmp_path / "checkout"))


def fake_nvcc(tmp_path: Path) -> Path:
    """A CUDA_HOME whose nvcc fails and leaves a mark that it was called."""
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\necho 'nvcc: error: no licence to compile'\nexit 1\n")
    nvcc.chmod(0o755)
    return tmp_path / "cuda"


SLOW = pytest.mark.slow  # an install takes three seconds and more


@SLOW
@pytest.mark.parametrize("way", [["."], ["-e", "."]], ids=["installed", "editable"])
def test_without_a_compiler_it_is_pure_python_and_trains(way: list[str], checkout: Path, tmp_path: Path) -> None:
    environment = Environment.create(tmp_path / "venv", PATH=str(tmp_path / "nothing"))
    output = environment.pip_install(*way, cwd=checkout)
    reason = "no C++ compiler: none of CXX, g++ and clang++ is there"
    assert build_lines(output) == [f"cifarfast: building without the compiled extension: {reason}"]
    assert "py3-none-any.whl" in output
    assert not any(name.endswith(".so") for name in environment.installed_files())
    done = environment.run(environment.python, *TRAIN, "--out", str(tmp_path / "run"), cwd=tmp_path)
    assert "test accuracy" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "no C++ compiler" in done.stderr or "no compiler" in done.stderr
    native = json.loads((tmp_path / "run/environment.json").read_text())["native"]
    assert native.startswith("absent: ")
    assert native.endswith("; the torch implementation is used")


NO_COMPILER = "the compiled extension: no C++ compiler: CXX is '/nonexistent/g++', which is not there"


@pytest.mark.parametrize(
    ("hide", "settings", "missing", "nvcc_called"),
    [
        pytest.param([], {"CXX": "/nonexistent/g++"}, NO_COMPILER, False, id="no compiler"),
        pytest.param(
            *(["nvcc"], {}, "CUDA: nvcc is not in CUDA_HOME, PATH or /usr/local/cuda", False), id="no nvcc", marks=SLOW
        ),
        pytest.param(
            *([], {}, "CUDA: compiling csrc failed: nvcc: error: no licence to compile", True),
            id="an nvcc that fails",
            marks=SLOW,
        ),
        pytest.param(
            *([], {"CIFARFAST_BUILD_CUDA": "0"}, "CUDA: CIFARFAST_BUILD_CUDA is 0", False),
            id="no CUDA wanted",
            marks=SLOW,
        ),
    ],
)
def test_what_it_is_built_without(
    hide: list[str], settings: dict[str, str], missing: str, nvcc_called: bool, checkout: Path, tmp_path: Path
) -> None:
    environment = Environment.create(tmp_path / "venv", hide=hide, CUDA_HOME=str(fake_nvcc(tmp_path)), **settings)
    (line,) = build_lines(environment.pip_install(".", cwd=checkout))
    built = "building" if missing == NO_COMPILER else "building the extension"
    assert line == f"cifarfast: {built} without {missing}"
    assert (tmp_path / "called").exists() == nvcc_called
    if missing != NO_COMPILER:
        assert environment.run(environment.python, "-c", LOAD, cwd=tmp_path).stdout == "False\n"
    if hide:
        shown = environment.run(environment.console_script, "env", cwd=tmp_path).stdout
        assert "csrc         compiled without CUDA: " in shown


@pytest.mark.parametrize(
    ("value", "hide", "message"),
    [
        ("1", ["nvcc"], "error: CIFARFAST_BUILD_CUDA is 1, but nvcc is not in CUDA_HOME, PATH or /usr/local/cuda"),
        ("1", ["g++", "clang++"], "error: CIFARFAST_BUILD_CUDA is 1, but there is no C++ compiler: none of CXX, g++"),
        ("banana", [], "error: CIFARFAST_BUILD_CUDA must be auto, 0 or 1, got 'banana'"),
    ],
)
def test_what_cannot_be_done_stops_the_install(
    value: str, hide: list[str], message: str, checkout: Path, tmp_path: Path
) -> None:
    environment = Environment.create(tmp_path / "venv", hide=hide, CIFARFAST_BUILD_CUDA=value)
    output = environment.pip_install(".", cwd=checkout, fails=True)
    assert len([line for line in output.splitlines() if message in line]) == 1
    assert "Traceback" not in output
    assert not (environment.site_packages / "cifarfast").exists()


@SLOW
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("request_cuda", ["auto", "1"])
def test_with_nvcc_cuda_is_compiled_and_needs_no_gpu_to_import(request_cuda: str, tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    environment = Environment.create(tmp_path / "venv", CIFARFAST_BUILD_CUDA=request_cuda)
    assert build_lines(environment.pip_install(".", cwd=checkout)) == []
    settings = {"CUDA_VISIBLE_DEVICES": ""}
    assert environment.run(environment.python, "-c", LOAD, cwd=tmp_path, **settings).stdout == "True\n"
    shown = environment.run(environment.console_script, "env", cwd=tmp_path, **settings).stdout
    assert "csrc         compiled with CUDA (installed)\n" in shown
