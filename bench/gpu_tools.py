"""What the check of a GPU uses: a build that says what went wrong, the memory checker, pytest's XML, an archive."""

import os
import shutil
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

BUNDLED = (".json", ".md", ".log", ".csv", ".toml", ".xml", ".done")
# arguments: csrc and a folder; where the extension cannot be had with CUDA, all that the compilers say about it
BUILD = """
import pathlib, sys
from cifarfast.runtime import native_build
module = native_build.load()
print(native_build.status().reason, native_build.status().path)
if module is None or not module.with_cuda:
    folder = pathlib.Path(sys.argv[2])
    try:
        native_build.compile_extension(pathlib.Path(sys.argv[1]), native_build.find_toolchain(), folder)
    finally:
        if (folder / "build.log").is_file():
            print((folder / "build.log").read_text())
    raise SystemExit(1)
"""


def bundle(archive: Path, folders: dict[str, Path]) -> None:
    """Write small files of folders to a .tar.gz, which is whole at any time: texts, JSON and tables, no weights."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    half = archive.with_name(f".{archive.name}.half")
    with tarfile.open(half, "w:gz") as file:
        for name, folder in folders.items():
            for path in sorted(folder.rglob("*")):
                if path.suffix in BUNDLED and path.is_file() and path.stat().st_size < 20 << 20:
                    file.add(path, f"{name}/{path.relative_to(folder)}")
    half.replace(archive)


def find_sanitizer() -> str | None:
    """compute-sanitizer from the PATH or from a CUDA toolkit."""
    homes = [os.environ.get("CUDA_HOME"), *map(str, sorted(Path("/usr/local").glob("cuda*")))]
    inside = [f"{home}/{folder}" for home in homes if home for folder in ("bin", "compute-sanitizer")]
    for folder in (None, *inside):
        if found := shutil.which("compute-sanitizer", path=folder):
            return found
    return None


def read_junit(path: Path) -> tuple[str, list[str]]:
    """Counts in words and the names of the tests that failed, from pytest's XML."""
    suite = ElementTree.parse(path).getroot()
    outcomes: dict[str, str] = {}
    for case in suite.iter("testcase"):
        # one that broke its process is there twice
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcomes[name] = "failed"
        else:
            outcomes.setdefault(name, "skipped" if case.find("skipped") is not None else "passed")
    counts = Counter(outcomes.values())
    words = ", ".join(f"{counts[what]} {what}" for what in ("passed", "failed", "skipped"))
    return words, [name for name, outcome in outcomes.items() if outcome == "failed"]
