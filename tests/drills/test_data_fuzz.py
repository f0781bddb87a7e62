"""Damaged and made-up data files and recipes: whatever is in them, a reader returns, or raises our error of one line.

Each drill draws its cases from a seed, so a case that fails is found again by its number. `make test` runs a few of
each; the slow tests run for a minute.
"""

import gzip
import io
import pickle
import random
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarfast.data import load_dataset
from cifarfast.data.cifar import family
from cifarfast.data.pickles import load_pickle
from cifarfast.ensembling.settings import parse_ensemble
from cifarfast.errors import UserError
from cifarfast.recipes.recipe import load_recipe, recipe_names, to_toml

SECONDS = 60.0
CASES = 60  # of the short form
Drill = Callable[[Path], Callable[[random.Random], None]]
INTERESTING = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: bytes, draw: random.Random, tokens: tuple[bytes, ...] = ()) -> bytes:
    """The bytes with one to four changes: flipped, cut, repeated, moved, overwritten by numbers or by tokens."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(out) + 1), draw.choice((1, 2, 4, 16, 300))
        kind = draw.randrange(8)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length] * draw.randint(1, 3)
        elif kind == 3:
            out[at : at + length] = draw.randbytes(length)
        elif kind == 4:
            number = draw.choice(INTERESTING).to_bytes(8, draw.choice(("little", "big")))
            out[at : at + 4] = number[:4] if draw.random() < 0.5 else number[4:]
        elif kind == 5:
            other = draw.randrange(len(out) + 1)
            out[at : at + length] = out[other : other + length]
        elif kind == 6 and tokens:
            out[at : at + draw.choice((0, 1, 4))] = draw.choice(tokens)
        elif draw.random() < 0.2:
            del out[at:]
    return bytes(out)


def pickles(folder: Path) -> Callable[[random.Random], None]:
    """A batch or the names of CIFAR-10, mutated; and pickles of opcodes in any order."""
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for protocol, name in zip((2, 2, 3, 4, 4, 2), names, strict=True):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [3, 4], "filenames": ["a", "b"]}, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(family("cifar10").classes)}, 2))
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    opcodes = b"Khj]}()tecaesuRbNqrX\x80\x85\x86\x87\x88\x89\x8a\x8c\x8e\x93\x94\x95CBUTMJ.("
    tokens = (*(bytes([code]) for code in opcodes), b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n")

    def case(draw: random.Random) -> None:
        name = draw.choice([*whole])
        if draw.random() < 0.3:
            body = b"".join(
                draw.choice(tokens) + draw.randbytes(draw.randint(0, 2)) for _ in range(draw.randint(1, 60))
            )
            load_pickle(b"\x80\x02" + body + b".", "made up")
            return
        content = whole[name]
        # the pixels hardly matter: most changes are before and after them
        start, end = draw.choice(((0, 200), (max(len(content) - 200, 0), len(content)), (0, len(content))))
        changed = content[:start] + mutated(content[start:end], draw, tokens) + content[end:]
        (folder / name).write_bytes(changed)
        try:
            load_dataset("cifar10", data_dir=folder, download=False)
        finally:
            (folder / name).write_bytes(content)

    return case


def idx_files(folder: Path) -> Callable[[random.Random], None]:
    """One of a split's four files, mutated, plain or packed, or packed and mutated."""
    whole: dict[str, bytes] = {}
    for part in ("train", "test"):
        for kind, shape in (("images-idx3", (4, 28, 28)), ("labels-idx1", (4,))):
            header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
            pixels = np.arange(4 if len(shape) == 1 else 4 * 784, dtype=np.int64).astype(np.uint8) % 10
            whole[f"emnist-mnist-{part}-{kind}-ubyte"] = header + pixels.tobytes()
    for name, content in whole.items():
        (folder / name).write_bytes(content)

    def case(draw: random.Random) -> None:
        name = draw.choice([*whole])
        content = (
            mutated(whole[name][:20], draw) + whole[name][20:] if draw.random() < 0.7 else mutated(whole[name], draw)
        )
        (folder / name).unlink()
        packed = folder / f"{name}.gz"
        if draw.random() < 0.5:
            (folder / name).write_bytes(content)
        else:
            data = gzip.compress(content, 1)
            packed.write_bytes(mutated(data, draw) if draw.random() < 0.5 else data)
        try:
            load_dataset("emnist_mnist", data_dir=folder, download=False)
        finally:
            packed.unlink(missing_ok=True)
            (folder / name).write_bytes(whole[name])

    return case


def image_bytes() -> list[tuple[str, bytes]]:
    """Small images of every format and many modes, by suffix."""
    drawn = np.random.default_rng(0).integers(0, 256, (9, 9, 4), np.uint8)
    colour, found = Image.fromarray(drawn), []
    deep = Image.fromarray(drawn[..., 0].astype(np.uint16) * 257)
    modes = [colour, colour.convert("RGB"), colour.convert("L"), colour.convert("LA"), colour.convert("P"), deep]
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in modes:
        for suffix in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "tga", "avif", "jp2"):
            file = io.BytesIO()
            try:
                image.save(file, format={"jp2": "JPEG2000"}.get(suffix, suffix), exif=exif)
            except (OSError, ValueError):  # a mode that the format has not
                continue
            found.append((suffix, file.getvalue()))
    return found


def folders_and_tables(folder: Path) -> Callable[[random.Random], None]:
    """Class folders with a mutated image in one of them, odd names and suffixes; and a CSV file of them, mutated."""
    images = image_bytes()
    suffixes = (".png", ".JPG", "", ".", ".heic", ".txt", ".tar.gz", ".jp2", ".tga")
    names = ("a", "b", "train", "test", "val", "é", "e\u0301", "-", "01", "1", " ", "\udce9", "x" * 200, "new\nline")
    text = (
        b"path,label,split\n",
        b"path,label\n",
        b"\xef\xbb\xbf",
        b'"',
        b",",
        b"\0",
        b"\n",
        b"\r",
        b"\xff",
        b"../",
        b"train",
    )

    def case(draw: random.Random) -> None:
        root = folder / "data"
        shutil.rmtree(root, ignore_errors=True)
        parts = draw.choice((("",), ("train", "test"), ("train", "val", "test"), ("train", "test", "a")))
        rows, kinds = [], draw.sample(names, draw.choice((1, 2, 2, 2, 3)))
        for part in parts:
            for name in kinds:
                for k in range(draw.choice((0, 1, 2, 2, 3, 3, 3, 3))):
                    suffix, content = draw.choice(images)
                    ending = f".{suffix}" if draw.random() < 0.9 else draw.choice(suffixes)
                    path = root / part / name / draw.choice(("", "deep")) / f"{k}{ending}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(mutated(content, draw) if draw.random() < 0.04 else content)
                    rows.append((path.relative_to(root).as_posix(), name, part or "train"))
        root.mkdir(exist_ok=True)
        if draw.random() < 0.2:
            (root / draw.choice(("link", "a-link"))).symlink_to(draw.choice((root, root / "a", root / "nothing")))
        options = {"image_size": draw.choice((None, 8)), "background": draw.choice(("white", "black", "none"))}
        if draw.random() < 0.5:
            load_dataset(f"folder:{root}", **options)
            return
        header = draw.choice(("path,label,split", "path,label"))
        lines = [header, *(",".join(row[: header.count(",") + 1]) for row in rows)]
        table = "\n".join(lines).encode("utf-8", "surrogateescape")
        (root / "t.csv").write_bytes(mutated(table, draw, text) if draw.random() < 0.7 else table)
        load_dataset(f"csv:{root / 't.csv'}", **options)

    return case


def recipes(folder: Path) -> Callable[[random.Random], None]:
    """Recipe files, mutated: settings of other types, numbers without end, brackets without end, other encodings."""
    whole = [to_toml(load_recipe(name)[0]).encode() for name in recipe_names()[::9]]
    whole.append(b'[ensemble]\nmembers = ["b20_wrn", "b28_pyramid"]\nmethod = "vote"\n[about]\ndescription = "x"\n')
    values = (
        *(
            b"1",
            b"-1",
            b"0.5",
            b"1e400",
            b"nan",
            b"inf",
            b"9" * 5000,
            b"0x" + b"f" * 5000,
            b"true",
            b'"x"',
            b"[]",
            b"{}",
        ),
        *(
            b"[" * 2000,
            b"{a=" * 2000,
            b"[1, 2]",
            b"1979-05-27",
            b'"\\u0000"',
            b"'''",
            b'"\\',
            b"\xff\xfe",
            b"\xef\xbb\xbf",
        ),
        *(
            b'{"a" = 1}',
            b"\0",
            b"\r\n",
            b"[about]\n",
            b"[l2]\n",
            b"= ",
            b"a.b.c = 1\n",
            b'"\xee\xbe\x80"',
            b"1_000",
            b"x" * 5000,
        ),
    )

    def case(draw: random.Random) -> None:
        content = draw.choice(whole)
        if draw.random() < 0.5:  # a setting with another value
            lines = content.split(b"\n")
            at = draw.randrange(len(lines))
            lines[at] = lines[at].partition(b"=")[0] + b"= " + draw.choice(values)
            content = b"\n".join(lines)
        if draw.random() < 0.6:
            content = mutated(content, draw, values)
        (folder / "r.toml").write_bytes(content)
        if b"[ensemble]" in content:
            parse_ensemble(content.decode("utf-8", "replace"), where="r.toml", name="r")
        else:
            recipe, _ = load_recipe(str(folder / "r.toml"))
            (folder / "again.toml").write_text(to_toml(recipe), encoding="utf-8")
            assert load_recipe(str(folder / "again.toml"))[0] == recipe

    return case


DRILLS: dict[str, Drill] = {
    "pickles": pickles,
    "idx": idx_files,
    "folders": folders_and_tables,
    "recipes": recipes,
}


def run_cases(case: Callable[[random.Random], None], seeds: Iterator[int]) -> dict[str, int]:
    """How many cases were read, and how many refused; anything else fails with the case's seed."""
    counts = {"read": 0, "refused": 0}
    for seed in seeds:
        started = time.process_time()
        try:
            case(random.Random(seed))
        except UserError as error:
            message = str(error)
            assert message, f"case {seed}"
            assert len(message.splitlines()) == 1, f"case {seed}: {message!r}"
            assert len(message) < 5000, f"case {seed}: {message[:200]!r}"
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"case {seed}: {type(error).__name__}: {error}") from error
        else:
            counts["read"] += 1
        assert time.process_time() - started < 20, f"case {seed} took long"
    return counts


@pytest.mark.parametrize("name", DRILLS)
def test_line_8_damaged_files(name: str, tmp_path: Path) -> None:
    counts = run_cases(DRILLS[name](tmp_path), iter(range(CASES)))
    assert min(counts.values()) > 0, counts


@pytest.mark.slow
@pytest.mark.parametrize("name", DRILLS)
def test_line_8_damaged_files_for_a_minute(name: str, tmp_path: Path) -> None:
    end = time.monotonic() + SECONDS

    def seeds() -> Iterator[int]:
        seed = CASES
        while time.monotonic() < end:
            yield seed
            seed += 1

    counts = run_cases(DRILLS[name](tmp_path), seeds())
    print(name, counts)
    assert min(counts.values()) > 0, counts
