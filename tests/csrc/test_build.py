"""runtime/native_build.py: finding compilers, the cache, many processes at once, and doing without a compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifarfast.runtime import native_build

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
ROOT_OF_RUNS = ROOT  # see ``checkout``


@pytest.fixture(scope="module", autouse=True)
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without a compiled extension, which an editable install leaves in the real one."""
    global ROOT_OF_RUNS
    ROOT_OF_RUNS = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("cifarfast", "kernels", "csrc"):
        shutil.copytree(ROOT / name, ROOT_OF_RUNS / name, ignore=ignore)
    return ROOT_OF_RUNS


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT_OF_RUNS), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=variables, cwd=ROOT_OF_RUNS, capture_output=True, text=True)


@pytest.mark.slow
def test_import_compiles_nothing(tmp_path):
    done = run_python(
        "import cifarfast.augment, cifarfast.runtime.native_build", CIFARFAST_CACHE_DIR=str(tmp_path / "cache")
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cache").exists()


def test_loading_by_path_imports_neither_torch_nor_the_package():
    code = f"""
import runpy, sys
sys.modules["torch"] = None
names = runpy.run_path({str(ROOT / "cifarfast" / "runtime" / "native_build.py")!r})
assert not any(name.startswith("cifarfast") for name in sys.modules)
print(names["source_hash"](__import__("pathlib").Path({str(CSRC)!r})))
"""
    assert run_python(code).stdout.strip() == native_build.source_hash(CSRC)


def fake_compiler(folder: Path) -> Path:
    """A compiler that takes its time, counts its calls and writes an empty output."""
    compiler = folder / "fake_cxx"
    compiler.write_text(
        f"""#!/bin/sh
case "$*" in *--version*) echo fake 1.0; exit 0;; esac
sleep 0.1; echo call >> {folder}/calls
while [ $# -gt 1 ]; do if [ "$1" = -o ]; then touch "$2"; fi; shift; done
"""
    )
    compiler.chmod(0o755)
    return compiler


def test_many_processes_build_once_and_a_later_one_finds_it(tmp_path):
    cache = tmp_path / "cache"
    code = f"""
from pathlib import Path
from cifarfast.runtime import native_build
print(native_build._cached_build(Path({str(CSRC)!r}), has_gpu=False, may_compile=True)[0])
"""
    variables = {"CIFARFAST_CACHE_DIR": str(cache), "CXX": str(fake_compiler(tmp_path)), "CIFARFAST_BUILD_CUDA": "0"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT_OF_RUNS), **variables}
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen(command, env=environment, cwd=ROOT_OF_RUNS, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(paths) == 1
    module = Path(paths.pop())
    assert [path for path in cache.iterdir() if path.is_dir()] == [module.parent]
    calls = (tmp_path / "calls").read_text()
    assert calls.count("call") == 3  # two sources and the link
    assert run_python(code, **variables).stdout.strip() == str(module)
    assert (tmp_path / "calls").read_text() == calls


AUGMENT = """
import torch
from cifarfast.augment import Augment, RandomFlip
images, labels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4)
for _ in range(3):
    print(tuple(Augment([RandomFlip()], [0.5] * 3, [0.2] * 3)(images, labels, labels, 0).images.shape))
from cifarfast.runtime import native_build
print(native_build.status().reason)
"""


@pytest.mark.slow
def test_an_installed_extension_of_other_sources_is_not_taken(checkout: Path, tmp_path: Path) -> None:
    """Once imported, Python would give out the old one in the new one's place."""
    installed = checkout / "cifarfast" / f"_C{native_build.SUFFIX}"
    code = (
        "from cifarfast.runtime.native_build import load; module = load(); print(module.source_hash, module.__file__)"
    )
    environment = {"CIFARFAST_CACHE_DIR": str(tmp_path), "CIFARFAST_BUILD_CUDA": "0"}
    old = run_python(code, **environment).stdout.split()
    shutil.copy(old[1], installed)
    assert run_python(code, **environment).stdout.split() == [old[0], str(installed)]
    header = checkout / "csrc" / "cast.h"
    text = header.read_text()
    header.write_text(text + "// changed\n")
    try:
        new = run_python(code, **environment)
        assert new.returncode == 0, new.stderr
        assert new.stdout.split()[0] == native_build.source_hash(checkout / "csrc") != old[0]
    finally:
        installed.unlink()
        header.write_text(text)


def test_without_a_compiler_plain_torch_takes_over_with_one_line(tmp_path):
    done = run_python(AUGMENT, CIFARFAST_CACHE_DIR=str(tmp_path), CXX="/nonexistent/g++")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["(4, 3, 8, 8)"] * 3
    assert "'/nonexistent/g++', which is not there" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cifarfast: plain torch augmentation, no compiled one: no C++ compiler")


@pytest.mark.slow
def test_a_failing_build_is_one_line_too(tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: broken on purpose'\nexit 1\n")
    compiler.chmod(0o755)
    done = run_python(AUGMENT, CIFARFAST_CACHE_DIR=str(tmp_path / "c"), CXX=str(compiler), CIFARFAST_BUILD_CUDA="0")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "cifarfast: plain torch augmentation, no compiled one: compiling csrc failed: x.cpp:1: error: broken on purpose"
    ]
    assert not [path for path in (tmp_path / "c").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_an_unknown_request_is_a_user_error(tmp_path):
    done = run_python(AUGMENT, CIFARFAST_CACHE_DIR=str(tmp_path), CIFARFAST_BUILD_CUDA="yes")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "cifarfast.errors.UserError: CIFARFAST_BUILD_CUDA must be auto, 0 or 1, got 'yes'"
    )


def test_cuda_is_compiled_only_when_wanted(monkeypatch):
    if native_build.load() is None:
        pytest.skip(native_build.status().reason)
    monkeypatch.setattr(native_build, "_find_nvcc", lambda: "/some/nvcc")
    monkeypatch.delenv("CIFARFAST_BUILD_CUDA", raising=False)
    assert native_build.find_toolchain(has_gpu=True).nvcc == "/some/nvcc"
    assert native_build.find_toolchain(has_gpu=False).nvcc is None
    monkeypatch.setenv("CIFARFAST_BUILD_CUDA", "1")
    assert native_build.find_toolchain(has_gpu=False).nvcc == "/some/nvcc"
    monkeypatch.setenv("CIFARFAST_BUILD_CUDA", "0")
    assert "is 0" in native_build.find_toolchain(has_gpu=True).cuda_note
    monkeypatch.setattr(native_build, "_find_nvcc", lambda: None)
    monkeypatch.setenv("CIFARFAST_BUILD_CUDA", "auto")
    assert "nvcc is not in" in native_build.find_toolchain(has_gpu=True).cuda_note
    monkeypatch.setenv("CIFARFAST_BUILD_CUDA", "1")
    with pytest.raises(native_build.RequestError, match="CIFARFAST_BUILD_CUDA is 1, but nvcc is not in"):
        native_build.find_toolchain(has_gpu=True)


def test_a_failing_cuda_build_is_repeated_without_cuda(tmp_path, monkeypatch):
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'nvcc error: unsupported host compiler'\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path)))
    monkeypatch.setattr(native_build, "_find_nvcc", lambda: str(compiler))
    monkeypatch.delenv("CIFARFAST_BUILD_CUDA", raising=False)
    path, note = native_build.build(CSRC, tmp_path / "out")
    assert path.is_file()
    assert note == "without CUDA: compiling csrc failed: nvcc error: unsupported host compiler"
    monkeypatch.setenv("CIFARFAST_BUILD_CUDA", "1")
    with pytest.raises(native_build.BuildError, match="unsupported host compiler"):
        native_build.build(CSRC, tmp_path / "again")


@pytest.mark.slow
def test_the_cuda_source_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFARFAST_BUILD_CUDA", "1")
    try:
        native_build.find_toolchain()
    except native_build.BuildError as error:
        pytest.skip(str(error))
    path, note = native_build.build(CSRC, tmp_path / "out")
    assert note == ""
    log = (tmp_path / "out" / "build.log").read_text()
    assert "warning" not in log, log
    code = f"""
from pathlib import Path
from cifarfast.runtime import native_build
print(native_build._import_file(Path({str(path)!r})).with_cuda)
"""
    assert run_python(code).stdout.strip() == "True"
