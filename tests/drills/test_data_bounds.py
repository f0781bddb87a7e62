"""Data files are read in bounded memory and time, and what is no data is refused with a line.

The numbers in names are those of the requirements.
"""

import gzip
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_up_data import picture, write_cifar10
from mistakes import refused
from PIL import Image

from cifarfast.data import image_files, load_dataset
from cifarfast.data.image_files import read_image
from cifarfast.recipes.recipe import load_recipe

# 8: data files


def nested(depth: int) -> bytes:
    """A list of twice the list of twice … in 5 bytes a level: 2^depth strings when it is written out."""
    body = b"]q\x00" + b"".join(b"](h" + bytes([k]) + b"h" + bytes([k]) + b"eq" + bytes([k + 1]) for k in range(depth))
    return b"\x80\x02}U\x0blabel_names" + body + b"s."


@pytest.mark.parametrize(
    "content",
    [
        nested(60),
        b"\x80\x02}U\x0blabel_names" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
        pickle.dumps({"label_names": ["x" * 100_000] * 200_000}, 2),
        pickle.dumps({"label_names": ["n" * 5000 + str(k) for k in range(10)]}, 2),
        b"\x80\x02}q\x00T\x00\x00\x08\x00" + b"k" * 2**19 + b"q\x01" + b"h\x01Ns" * 100_000 + b".",
    ],
    ids=["twice the list", "depth", "one name again and again", "long names", "one key again and again"],
)
def test_line_8_batches_meta(content: bytes, tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "cifar-10-batches-py")
    (folder / "batches.meta").write_bytes(content)
    with refused(match="batches.meta"):
        load_dataset("cifar10", data_dir=tmp_path, download=False)


def test_line_8_labels_are_counted_before_they_are_widened(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", labels=np.zeros(10**6, np.uint8))
    with refused("data_batch_1: 4 images but 1,000,000 labels"):
        load_dataset("cifar10", data_dir=tmp_path, download=False)


def bounded(body: str, gigabytes: float) -> str:
    """What a program prints that may take this much memory beyond what its imports take."""
    start = """
        import resource
        from cifarfast.data import load_dataset
        from cifarfast.data.image_files import read_image
        from cifarfast.errors import UserError
        import PIL.PngImagePlugin, torchvision.datasets
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(GIGABYTES * 2**30),) * 2)
    """.replace("GIGABYTES", str(gigabytes))
    code = textwrap.dedent(start) + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_line_8_packed_emnist_that_grows(tmp_path: Path) -> None:
    """Two files whose headers claim 2.1 and 1.5 billion values, of which 64 million are there."""
    packer, zeros = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(2**24)
    body = b"".join(packer.compress(zeros) for _ in range(4)) + packer.flush()
    for name, header in (("large", (2_700_000, 28, 28)), ("wide", (1, 40_000, 40_000))):
        folder = tmp_path / name
        folder.mkdir()
        start = gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *header))
        for part in ("train", "test"):
            (folder / f"emnist-mnist-{part}-images-idx3-ubyte.gz").write_bytes(start + body)
            (folder / f"emnist-mnist-{part}-labels-idx1-ubyte.gz").write_bytes(b"")
        with refused(match="claims 2,700,000 images|images are 40000×40000"):
            load_dataset("emnist_mnist", data_dir=folder, download=False)


@pytest.mark.slow
def test_line_8_what_a_header_claims_takes_no_memory(tmp_path: Path) -> None:
    for part in ("train", "test"):
        header = struct.pack(">HBB3I", 0, 8, 3, 1_000_000, 28, 28)
        (tmp_path / f"emnist-mnist-{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(1000)))
        (tmp_path / f"emnist-mnist-{part}-labels-idx1-ubyte.gz").write_bytes(b"")
    said = bounded(
        f"""
        try:
            load_dataset("emnist_mnist", data_dir={str(tmp_path)!r}, download=False)
        except UserError as error:
            print(error, int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() < 2**30)
        """,
        1.5,
    )
    assert "is truncated: its header promises 784,000,000 values; get the data again True" in said


def png_of_zeros(path: Path, side: int, depth: int, rows: int) -> None:
    """A grey PNG whose pixels are all 0, made without having them in memory; ``rows`` of them are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + side * depth // 8)
    packed = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def test_line_8_image_bombs(tmp_path: Path) -> None:
    png_of_zeros(tmp_path / "bomb.png", 13_000, 16, rows=10)
    with refused("bomb.png: it has 13,000×13,000 pixels, at most 100,000,000 are read"):
        read_image(tmp_path / "bomb.png", 32, 1)
    with refused("at most 100,000,000"), Image.open(tmp_path / "bomb.png") as opened:
        image_files.to_pixels(opened, 32, 1)
        raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["I;16", "RGBA"])
def test_line_8_the_largest_image_takes_bounded_memory(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        png_of_zeros(tmp_path / "large.png", 10_000, 16, rows=10_000)
    else:
        Image.new("RGBA", (10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    said = bounded(
        f"from pathlib import Path\nprint(read_image(Path({str(tmp_path / 'large.png')!r}), 8, 3).max())", 1.75
    )
    assert said == ("0\n" if mode == "I;16" else "255\n")


@pytest.mark.parametrize("name", ["pipe", "zero"])
def test_line_8_pipes_and_devices_are_no_data(name: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if name == "zero" else tmp_path / "pipe"
    if name == "pipe":
        os.mkfifo(path)
    with refused(match="not a regular file"):
        load_dataset(f"csv:{path}")
    with refused(match="not a regular file"):
        read_image(path, 8, 1)
    with refused(match="not a regular file"):
        (tmp_path / "recipe.toml").symlink_to(path)
        load_recipe(str(tmp_path / "recipe.toml"))


def test_line_8_a_csv_file_answers_at_its_first_missing_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "there.png", 0)
    rows = ["there.png,a", "gone.png,b"] + [f"{k}.png,a" for k in range(5000)]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows))
    looked_at: list[str] = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked_at.append(path.name) or is_file(path))
    with refused("t.csv line 3: there is no image", "gone.png"):
        load_dataset(f"csv:{tmp_path / 't.csv'}")
    assert looked_at == ["there.png", "gone.png"]
