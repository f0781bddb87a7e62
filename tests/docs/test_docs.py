"""Every code block of README and docs is run as it stands, page by page, in a folder with a small CIFAR-10.

A block of a shell that cannot run here has a comment ``<!-- not run: why -->`` before it.
"""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, blocks, pages
from PIL import Image

# what a page's Python code takes for given, as its text says
GIVEN = """
import numpy as np, torchvision
images = np.zeros((4, 32, 32, {channels}), np.uint8)
network = torchvision.models.resnet18(num_classes=10)
"""


def write_small_cifar10(folder: Path) -> None:
    """CIFAR-10's Python layout with 40 images a batch."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {
            b"data": rng.integers(256, size=(40, 3072), dtype=np.uint8),
            b"labels": [i % 10 for i in range(40)],
            b"batch_label": name.encode(),
            b"filenames": [b"x.png"] * 40,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    meta = {b"label_names": names, b"num_vis": 3072, b"num_cases_per_batch": 40}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, a picture, and the console script on the path that ``run`` takes."""
    folder = tmp_path_factory.mktemp("docs")
    write_small_cifar10(folder / "data" / "cifar-10-batches-py")
    Image.fromarray(np.full((40, 50, 3), 128, np.uint8)).save(folder / "picture.png")
    scripts = folder / "bin"
    scripts.mkdir()
    for name, command in (("cifarfast", "-m cifarfast"), ("python", ""), ("torchrun", "-m torch.distributed.run")):
        script = scripts / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        script.chmod(0o755)
    return folder


def run(place: Path, command: list[str]) -> None:
    """Run a command there; fail with what it printed."""
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def trained(place: Path, name: str, *flags: str) -> None:
    """The run folder ``runs/NAME`` that a page starts from."""
    if not (place / "runs" / name).exists():
        arguments = ["--recipe", "b01_lenet", "--epochs", "1", "--data-dir", "data", "--val-split", "0.2", *flags]
        run(place, [sys.executable, "-m", "cifarfast.train", "--out", f"runs/{name}", *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_code_blocks_run(page: Path, place: Path) -> None:
    if page.stem == "evaluation":
        for name, seed in (("lenet", "1"), ("a", "1"), ("b", "2")):
            trained(place, name, "--seed", seed, "--split-seed", "1")
    python = [GIVEN.format(channels=3 if page.stem == "evaluation" else 1)]
    for block in blocks(page):
        if block.argument("not run") is not None:
            continue
        if block.language == "sh":
            run(place, ["bash", "-e", "-c", block.code])
        elif block.language == "python":
            python.append(block.code)
    if len(python) > 1:
        run(place, [sys.executable, "-c", "\n".join(python)])


def test_blocks_that_are_not_run_say_why() -> None:
    for page in pages():
        for block in blocks(page):
            assert block.language in ("sh", "python", ""), f"{page.name}: a block in {block.language}"
            if block.comment.startswith("not run"):
                assert len(block.argument("not run") or "") > 10, f"{page.name}: {block.comment}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def test_links_lead_to_files() -> None:
    for page in [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"]:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)", prose):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
