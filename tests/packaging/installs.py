"""Throw-away copies of the checkout and virtual environments: nothing is built or installed in the real ones."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# what would reach into the copies
SETTINGS = ("PYTHONPATH", "MYPYPATH", "VIRTUAL_ENV", "CXX", "CC", "CUDA_HOME", "MAKEFLAGS")

HIDE = """\
import shutil
def visible(cmd, *args, which=shutil.which, **kwargs):
    return None if str(cmd).rpartition("/")[2] in {names!r} else which(cmd, *args, **kwargs)
shutil.which = visible
"""

STUB_SOURCES = {
    "with_cuda.h": """\
#ifdef CIFARFAST_WITH_CUDA
constexpr bool with_cuda = true;
#else
constexpr bool with_cuda = false;
#endif
""",
    "kernel.cu": "",
    "bindings.cpp": """\
#include <Python.h>
#include "with_cuda.h"
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  PyObject* module = PyModule_Create(&definition);
  PyModule_AddObject(module, "with_cuda", PyBool_FromLong(with_cuda));
  PyModule_AddStringConstant(module, "source_hash", CIFARFAST_SOURCE_HASH);
  return module;
}
""",
}


# compiles a file of csrc once for all checkouts, and does not optimise it: the code that comes out is tested elsewhere
COMPILER = """\
#!/bin/sh
case " $* " in *" -c "*) ;; *) exec {cxx} "$@" ;; esac
kept={folder}/$(printf %s "$*" | sed 's#[^ ]*/##g' | sha256sum | cut -c-16).o
for output; do :; done
[ -f $kept ] || {{ {cxx} "$@" -O0 && cp "$output" $kept.$$ && mv $kept.$$ $kept; }} || exit 1
cp $kept "$output"
"""


def copy_checkout(folder: Path) -> Path:
    """What a clone would hold if everything that git does not ignore were committed."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a clone, to know which files belong to the checkout")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def stub_csrc(checkout: Path) -> Path:
    """Put a module of the same name that compiles in no time in the place of csrc/, for tests of the build alone."""
    shutil.rmtree(checkout / "csrc")
    (checkout / "csrc").mkdir()
    for name, text in STUB_SOURCES.items():
        (checkout / "csrc" / name).write_text(text)
    return checkout


@dataclass(frozen=True)
class Environment:
    """A virtual environment that borrows the running one's dependencies, but not its cifarfast."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, *, hide: Sequence[str] = (), **settings: str) -> "Environment":
        """Make one; ``hide`` names programs that ``shutil.which`` will not find in it, wherever they are."""
        venv.create(folder, symlinks=True)
        environment = cls(folder, {"CIFARFAST_CACHE_DIR": str(folder / "cache"), **settings})
        # a path in a .pth file is appended to sys.path, and .pth files there (editable installs) are not followed
        shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        assert shared
        (environment.site_packages / "dependencies.pth").write_text("\n".join(shared) + "\n")
        if hide:
            (environment.site_packages / "hide_programs.py").write_text(HIDE.format(names=set(hide)))
            (environment.site_packages / "hide_programs.pth").write_text("import hide_programs\n")
        return environment

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def console_script(self) -> str:
        return str(self.folder / "bin" / "cifarfast")

    @property
    def site_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.folder)}))

    def run(
        self, *command: str, cwd: Path, fails: bool = False, merge: bool = False, **settings: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command; it must end well, or with an error where ``fails``. ``merge`` puts stderr into stdout."""
        kept = {k: v for k, v in os.environ.items() if k not in SETTINGS and not k.startswith("CIFARFAST_")}
        quick = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**kept, **quick, **self.settings, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            text=True,
            timeout=600,
        )
        assert (done.returncode != 0) == fails, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def pip_install(self, *arguments: str, cwd: Path, fails: bool = False) -> str:
        """``pip install -v`` with the running environment's pip and no network; returns what it printed."""
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--ignore-installed"]
        call = [sys.executable, "-m", "pip", "--python", self.python, "install", "-v", *offline, *arguments]
        return self.run(*call, cwd=cwd, fails=fails, merge=True).stdout

    def installed_files(self) -> list[str]:
        """What the installed package's RECORD lists, without its metadata: what the wheel held."""
        (record,) = self.site_packages.glob("cifarfast-*.dist-info/RECORD")
        names = [line.split(",")[0] for line in record.read_text().splitlines()]
        return [name for name in names if ".dist-info/" not in name]


def build_lines(output: str) -> list[str]:
    """What the build said about the compiled extension."""
    return [line.strip() for line in output.splitlines() if line.strip().startswith("cifarfast: building")]
