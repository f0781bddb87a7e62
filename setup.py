"""The build: packages, and csrc/ compiled into cifarfast/_C. All metadata is in pyproject.toml."""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent


def load_build_module():
    """``cifarfast.runtime.native_build`` loaded by path: the package needs torch, which a build environment lacks."""
    path = ROOT / "cifarfast" / "runtime" / "native_build.py"
    spec = importlib.util.spec_from_file_location("_cifarfast_build", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


native = load_build_module()


def missing():
    """Why the extension cannot be built, or an empty string."""
    try:
        native.find_toolchain()
    except native.RequestError as error:
        raise SystemExit(f"error: {error}") from None
    except native.BuildError as error:
        return str(error)
    return ""


class BuildPy(build_py):
    """``build_py``, the first step of every install, that says in one line when the package will be pure Python."""

    def run(self):
        if Path(self.build_lib).resolve().is_relative_to(ROOT / "build"):
            shutil.rmtree(self.build_lib, ignore_errors=True)  # what an earlier build left would be packed too
        if reason := missing():
            print(f"cifarfast: building without the compiled extension: {reason}", flush=True)
        super().run()


class BuildExt(build_ext):
    """``build_ext`` that hands csrc/ to cifarfast/runtime/native_build.py."""

    def run(self):
        try:
            path, note = native.build(ROOT / "csrc", Path(self.build_temp).resolve() / "csrc")
        except native.BuildError as error:
            if native.cuda_request() == "1":
                raise SystemExit(f"error: {error}") from None
            print(f"cifarfast: building without the compiled extension: {error}", flush=True)
            self.extensions = []
            return
        if note:
            print(f"cifarfast: building the extension {note}", flush=True)
        self.built = path
        super().run()

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(self.built), str(target))


class SourceDist(sdist):
    """``sdist`` with the whole of csrc/, whether or not it can be compiled here; tests stay in the checkout."""

    def make_distribution(self):
        self.filelist.extend(csrc_files())
        self.filelist.prune("tests")
        super().make_distribution()


def csrc_files():
    """csrc/ as paths relative to this file."""
    return [path.relative_to(ROOT).as_posix() for path in native.source_files(ROOT / "csrc")]


def extension():
    """The one extension module; its sources are named so that an sdist holds them."""
    files = csrc_files()
    sources = [name for name in files if name.endswith(".cpp")]
    return Extension("cifarfast._C", sources=sources, depends=[name for name in files if name not in sources])


kernels = ["cifarfast.kernels", *(f"cifarfast.kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=[*find_packages(include=["cifarfast", "cifarfast.*"]), *kernels],
    include_package_data=False,  # package_data says it all
    package_dir={"cifarfast.kernels": "kernels"},
    package_data={
        "cifarfast": [
            "ensembling/*.toml",
            "recipes/*.toml",
            "report/*.css",
            "report/*.html",
            "report/*.js",
            "py.typed",
        ],
        "cifarfast.kernels": ["tuning/*.json"],
    },
    ext_modules=[] if missing() else [extension()],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt, "sdist": SourceDist},
)
