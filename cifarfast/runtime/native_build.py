"""Compiles ``csrc/`` into the extension module ``_C``: at install time for setup.py, on first use from a checkout.

Environment:
    CIFARFAST_BUILD_CUDA: ``auto`` (with CUDA where nvcc is), ``1`` (nvcc is required) or ``0`` (never).
    CIFARFAST_CACHE_DIR: where a checkout's builds are kept; default ``~/.cache/cifarfast``.
    CXX, CUDA_HOME: the compilers to use.

setup.py runs this file by path, so nothing here imports torch or the package when it is loaded.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall"]
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "--fmad=false",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
_PACKAGE = Path(__file__).resolve().parents[1]


class BuildError(RuntimeError):
    """The extension cannot be built; the message is one line that says what is missing or what failed."""


class RequestError(BuildError):
    """CIFARFAST_BUILD_CUDA asks for what cannot be done: an error even where a build without CUDA would do."""


class NotCompiledError(BuildError):
    """Nothing is in the way of the build; it comes on first use."""


@dataclass(frozen=True)
class Toolchain:
    """The compilers of one build; ``nvcc`` is None for a build without CUDA and ``cuda_note`` says why."""

    cxx: str
    ninja: str
    nvcc: str | None
    cuda_note: str


@dataclass(frozen=True)
class Status:
    """Whether the compiled extension is in use, whether it has CUDA code, and one line that explains it."""

    available: bool
    cuda: bool
    reason: str
    path: str | None = None


def cuda_request() -> str:
    """The value of CIFARFAST_BUILD_CUDA: ``auto``, ``0`` or ``1``."""
    value = os.environ.get("CIFARFAST_BUILD_CUDA", "auto")
    if value not in ("auto", "0", "1"):
        raise RequestError(f"CIFARFAST_BUILD_CUDA must be auto, 0 or 1, got {value!r}")
    return value


def _find_cxx() -> str:
    chosen = os.environ.get("CXX")
    if chosen:
        path = shutil.which(chosen)
        if path is None:
            raise BuildError(f"no C++ compiler: CXX is {chosen!r}, which is not there")
        return path
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            return path
    raise BuildError("no C++ compiler: none of CXX, g++ and clang++ is there")


def _find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    candidates = [str(Path(home) / "bin" / "nvcc")] if home else []
    for candidate in [*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"]:
        if path := shutil.which(candidate):
            return path
    return None


def _find_ninja() -> str:
    if path := shutil.which("ninja") or shutil.which(str(Path(sys.executable).parent / "ninja")):
        return path
    with contextlib.suppress(ImportError):
        import ninja  # the pip package; its program may lie outside PATH

        if path := shutil.which(str(Path(ninja.BIN_DIR) / "ninja")):
            return path
    raise BuildError("no ninja: install the package ninja")


def _check_headers() -> None:
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        raise BuildError("no Python.h: install the headers of this Python (python3-dev)")
    if importlib.util.find_spec("pybind11") is None:
        raise BuildError("no pybind11: install the package pybind11")


def find_toolchain(*, has_gpu: bool = True) -> Toolchain:
    """Find the compilers. Without a GPU, CUDA code is compiled only when CIFARFAST_BUILD_CUDA is 1.

    Raises:
        BuildError: when there is no C++ compiler, ninja, pybind11 or Python header, or no nvcc where CUDA is required.
    """
    request = cuda_request()
    try:
        cxx, ninja = _find_cxx(), _find_ninja()
        _check_headers()
    except BuildError as error:
        if request == "1":
            raise RequestError(f"CIFARFAST_BUILD_CUDA is 1, but there is {error}") from None
        raise
    nvcc = _find_nvcc()
    if request == "1":
        if nvcc is None:
            raise RequestError("CIFARFAST_BUILD_CUDA is 1, but nvcc is not in CUDA_HOME, PATH or /usr/local/cuda")
        return Toolchain(cxx, ninja, nvcc, "")
    if request == "0":
        return Toolchain(cxx, ninja, None, "without CUDA: CIFARFAST_BUILD_CUDA is 0")
    if nvcc is None:
        return Toolchain(cxx, ninja, None, "without CUDA: nvcc is not in CUDA_HOME, PATH or /usr/local/cuda")
    if not has_gpu:
        return Toolchain(cxx, ninja, None, "without CUDA: there is no GPU (CIFARFAST_BUILD_CUDA=1 compiles it anyway)")
    return Toolchain(cxx, ninja, nvcc, "")


def source_files(csrc: Path) -> list[Path]:
    """Every file of ``csrc`` that takes part in a build."""
    return sorted(path for path in csrc.iterdir() if path.suffix in (".h", ".cpp", ".cu"))


def source_hash(csrc: Path) -> str:
    """A short hash of the sources and flags; a built module carries it as ``_C.source_hash``."""
    digest = hashlib.sha256(repr((CXX_FLAGS, NVCC_FLAGS)).encode())
    for path in source_files(csrc):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _ninja_file(csrc: Path, tools: Toolchain, output: Path) -> str:
    import pybind11

    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}", f"-I{csrc}"]
    defines = [f'-DCIFARFAST_SOURCE_HASH=\\"{source_hash(csrc)}\\"']
    if tools.nvcc:
        defines.append("-DCIFARFAST_WITH_CUDA")
    if sys.platform == "darwin":
        link = f"{tools.cxx} -bundle -undefined dynamic_lookup $in -o $out"
    elif tools.nvcc:
        link = f"{tools.nvcc} -ccbin {tools.cxx} -shared -cudart static $in -o $out"
    else:
        link = f"{tools.cxx} -shared -pthread $in -o $out"
    lines = [
        f"cxx_flags = {' '.join([*CXX_FLAGS, '-pthread', *defines, *includes])}",
        f"rule cxx\n  command = {tools.cxx} $cxx_flags -c $in -o $out",
        f"rule nvcc\n  command = {tools.nvcc} -ccbin {tools.cxx} {' '.join(NVCC_FLAGS)} -I{csrc} -c $in -o $out",
        f"rule link\n  command = {link}",
    ]
    objects = []
    for path in source_files(csrc):
        if path.suffix == ".cpp" or (path.suffix == ".cu" and tools.nvcc):
            rule = "cxx" if path.suffix == ".cpp" else "nvcc"
            escaped = str(path).replace(" ", "$ ").replace(":", "$:")
            lines.append(f"build {path.name}.o: {rule} {escaped}")
            objects.append(f"{path.name}.o")
    lines.append(f"build {output.name}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def compile_extension(csrc: Path, tools: Toolchain, folder: Path) -> Path:
    """Compile and link in ``folder``; return the extension module's path.

    Raises:
        BuildError: with the first error line of the compiler; the whole output is in ``folder/build.log``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"_C{SUFFIX}"
    (folder / "build.ninja").write_text(_ninja_file(csrc, tools, output))
    done = subprocess.run([tools.ninja], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (folder / "build.log").write_text(done.stdout)
    if done.returncode != 0 or not output.is_file():
        errors = [line for line in done.stdout.splitlines() if "error" in line.lower()]
        raise BuildError(f"compiling csrc failed: {(errors or ['see build.log'])[0].strip()}")
    return output


def build(csrc: Path, folder: Path, *, has_gpu: bool = True) -> tuple[Path, str]:
    """Build with what is there: (path of the module, a note on CUDA that is empty when it is in).

    In ``auto`` mode a failing CUDA build is repeated without CUDA.
    """
    tools = find_toolchain(has_gpu=has_gpu)
    try:
        return compile_extension(csrc, tools, folder), tools.cuda_note
    except BuildError as error:
        if tools.nvcc is None or cuda_request() == "1":
            raise
        note = f"without CUDA: {error}"
        return compile_extension(csrc, Toolchain(tools.cxx, tools.ninja, None, note), folder / "cpu"), note


def cache_folder() -> Path:
    """Where builds of a checkout are kept.

    Raises:
        BuildError: the user has no home folder, as in a container.
    """
    chosen = os.environ.get("CIFARFAST_CACHE_DIR")
    try:
        return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "cifarfast"
    except RuntimeError:
        raise BuildError("this user has no home folder: set CIFARFAST_CACHE_DIR to a folder for the build") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _cached_build(csrc: Path, *, has_gpu: bool, may_compile: bool) -> tuple[Path, str]:
    tools = find_toolchain(has_gpu=has_gpu)
    version = subprocess.run([tools.cxx, "--version"], capture_output=True, text=True).stdout.splitlines()[:1]
    identity = repr((source_hash(csrc), SUFFIX, tools.cxx, version, tools.nvcc, sys.version_info[:3]))
    name = hashlib.sha256(identity.encode()).hexdigest()[:20]
    home = cache_folder()
    final = home / name
    module, note = final / f"_C{SUFFIX}", final / "note"
    if not module.is_file():
        if not may_compile:
            raise NotCompiledError(f"first use compiles csrc {tools.cuda_note or 'with CUDA'}")
        with _locked(home / f"{name}.lock"):
            if not module.is_file():
                shutil.rmtree(final, ignore_errors=True)
                work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=home))
                try:
                    built, text = build(csrc, work, has_gpu=has_gpu)
                    (work / "note").write_text(text)
                    if built.parent != work:
                        built.rename(work / built.name)
                    work.rename(final)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    return module, note.read_text()


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifarfast._C", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _is_of(module: Path, csrc: Path) -> bool:
    """Whether a built module is of these sources, without importing it: Python would go on giving out that one."""
    return source_hash(csrc).encode() in module.read_bytes()


def _load(*, may_compile: bool = True) -> tuple[ModuleType | None, Status]:
    installed = _PACKAGE / f"_C{SUFFIX}"
    csrc = _PACKAGE.parent / "csrc"
    checkout = (csrc / "bindings.cpp").is_file()
    import torch

    try:
        if installed.is_file() and (not checkout or _is_of(installed, csrc)):
            module = _import_file(installed)
            cuda = bool(module.with_cuda)
            reason = "installed" if cuda else "without CUDA: it was built where nvcc was not found or not wanted"
            return module, Status(True, cuda, reason, str(installed))
        if not checkout:
            reason = "the package was built where no C++ compiler was (`pip install -v` says what it lacks)"
            return None, Status(False, False, reason)
        path, note = _cached_build(csrc, has_gpu=torch.cuda.is_available(), may_compile=may_compile)
        module = _import_file(path)
        return module, Status(True, bool(module.with_cuda), note or "built from csrc", str(path))
    except RequestError as error:
        from cifarfast.errors import UserError

        raise UserError(str(error)) from None
    except NotCompiledError:
        raise
    except (BuildError, OSError, ImportError) as error:
        return None, Status(False, False, str(error))


_loaded: tuple[ModuleType | None, Status] | None = None


def load() -> ModuleType | None:
    """The extension module, built first if this is a checkout; None, after one line on stderr, where that cannot be."""
    global _loaded
    if _loaded is None:
        _loaded = _load()
        if _loaded[0] is None:
            print(f"cifarfast: plain torch augmentation, no compiled one: {_loaded[1].reason}", file=sys.stderr)
    return _loaded[0]


def status() -> Status:
    """Why the extension is there or not. Loads it, and so builds it in a checkout."""
    load()
    assert _loaded is not None
    return _loaded[1]


def describe() -> str:
    """The extension's state in one line, found without compiling anything.

    Raises:
        UserError: CIFARFAST_BUILD_CUDA asks for what cannot be done.
    """
    try:
        status = (_loaded or _load(may_compile=False))[1]
    except NotCompiledError as error:
        return f"not compiled yet: {error}"
    if not status.available:
        return f"absent: {status.reason}; the torch implementation is used"
    return f"compiled with CUDA ({status.reason})" if status.cuda else f"compiled {status.reason}"
