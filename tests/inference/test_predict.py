"""``cifarfast predict``: the run's own predictions from files, images of every kind, files that are no images."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import make_run
from mistakes import Fails
from PIL import Image
from processes import run_inline

from cifarfast.commands import cli
from cifarfast.commands.predict import main
from cifarfast.data import load_dataset
from cifarfast.data.image_files import read_image
from cifarfast.data.scan import scan
from cifarfast.ensembling.ensemble import ensemble
from cifarfast.errors import UserError
from cifarfast.inference.predict_files import FilePrediction, predict_files
from cifarfast.runs.run_folder import RunFolder

DATA = "synthetic:classes=4,train=200,test=24"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("predict") / "run"
    flags = [f"--dataset={DATA}", "--arch=cnn_tutorial", "--epochs=2", "--batch-size=16", "--ema-decay=0.5", "--quiet"]
    assert run_inline([*flags, f"--out={out}"]).code == 0
    return RunFolder(out)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of the run as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(load_dataset(DATA).test.images):
        Image.fromarray(image.numpy()).save(folder / f"{i:03}.png")
    return folder


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_data_set_images_saved_as_files_are_predicted_as_in_the_run(
    run: RunFolder, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits, _ = run.read_predictions()
    p = torch.from_numpy(logits).double().softmax(1).numpy()
    for size in (1, 7, 64):
        found = as_json(capsys, run.path, pictures, f"--batch-size={size}")["images"]
        assert [Path(row["path"]).name for row in found] == [f"{i:03}.png" for i in range(24)]
        for i, row in enumerate(found):
            order = [entry["index"] for entry in row["predictions"]]
            assert order == np.argsort(-p[i], kind="stable").tolist()
            assert [entry["confidence"] for entry in row["predictions"]] == pytest.approx(p[i][order], abs=1e-5)
            assert row["predictions"][0]["class"] == f"pattern {logits[i].argmax()}"


def test_real_images(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = ["--dataset=cifar10", f"--data-dir={real_data}", "--arch=lenet", "--epochs=1", "--limit-train=200"]
    assert run_inline([*flags, "--quiet", f"--out={out}"]).code == 0
    images = load_dataset("cifar10", data_dir=real_data).test.images[:50]
    for i, image in enumerate(images):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i:03}.png")
    capsys.readouterr()
    found = as_json(capsys, out, *[tmp_path / f"{i:03}.png" for i in range(50)], "--top-k=1")["images"]
    expected = RunFolder(out).read_predictions()[0][:50].argmax(1).tolist()
    assert [row["predictions"][0]["index"] for row in found] == expected


def test_a_checkpoint_the_weights_and_top_k(run: RunFolder, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = sorted(run.checkpoints.glob("step-*"))[-1]
    image = pictures / "003.png"
    assert as_json(capsys, step, image)["images"] == as_json(capsys, run.path, image)["images"]
    model = as_json(capsys, run.path, image, "--weights=model", "--top-k=2")["images"][0]["predictions"]
    ema = as_json(capsys, run.path, image, "--weights=ema", "--top-k=2")["images"][0]["predictions"]
    assert len(model) == len(ema) == 2
    assert model != ema


def test_the_table(run: RunFolder, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run.path), str(pictures / "000.png"), str(pictures / "001.png"), "--top-k=2"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "1.", "2."]
    assert [row.split()[0] for row in rows] == [str(pictures / f"00{i}.png") for i in range(2)]
    assert all(row.count("%") == 2 and "pattern" in row for row in rows)


def test_an_ensemble(run: RunFolder, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_run(tmp_path / "other", dataset=DATA)
    made = ensemble([run, other], weights=[1, 0], out=tmp_path / "e")
    alone, voted = (as_json(capsys, path, pictures)["images"] for path in (run.path, made.path))
    for a, b in zip(alone, voted, strict=True):
        assert [row["index"] for row in a["predictions"]] == [row["index"] for row in b["predictions"]]
        assert a["predictions"][0]["confidence"] == pytest.approx(b["predictions"][0]["confidence"], abs=1e-5)


@pytest.mark.gpu
def test_on_a_gpu(run: RunFolder, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (as_json(capsys, run.path, pictures, f"--device={device}")["images"] for device in ("cpu", "cuda"))
    for a, b in zip(one, other, strict=True):
        assert a["predictions"][0]["confidence"] == pytest.approx(b["predictions"][0]["confidence"], abs=1e-2)


def test_the_same_from_python(run: RunFolder, pictures: Path) -> None:
    from cifarfast.ensembling import load_model

    (found,) = predict_files(load_model(run.path), [pictures / "001.png"], top_k=1)
    assert isinstance(found, FilePrediction)
    assert len(found.classes) == len(found.confidences) == 1


# kinds of images


def gradient(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("RGB", s) for s in (".png", ".bmp", ".tiff", ".webp", ".ppm")),
        *(("L", ".png"), ("1", ".png"), ("LA", ".png"), ("P", ".png"), ("P", ".gif"), ("RGBA", ".png")),
        *(("CMYK", ".jpg"), ("CMYK", ".tiff"), ("YCbCr", ".jpg")),
    ],
)
def test_modes(mode: str, suffix: str, tmp_path: Path) -> None:
    picture = gradient(mode)
    path = tmp_path / f"image{suffix}"
    picture.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    with Image.open(path) as opened:
        expected = opened.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(read_image(path, 16, 3), np.asarray(expected))
    grey = read_image(path, 16, 1)
    assert grey.shape == (16, 16, 1)
    assert grey.dtype == np.uint8
    assert abs(grey[..., 0].astype(int) - np.asarray(expected.convert("L")).astype(int)).max() <= 2


def test_grey_with_16_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    for suffix in (".png", ".tiff"):
        Image.fromarray(values).save(tmp_path / f"deep{suffix}")
        found = read_image(tmp_path / f"deep{suffix}", 32, 1)[..., 0]
        assert np.array_equal(found, np.round(values / 257).astype(np.uint8))
        assert np.array_equal(read_image(tmp_path / f"deep{suffix}", 32, 3)[..., 2], found)
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "wide.tiff")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tiff")
    for name in ("wide", "float"):
        with pytest.raises(UserError, match="no fixed range"):
            read_image(tmp_path / f"{name}.tiff", 8, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    upright = gradient(size=(24, 24))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # transpositions that the orientation tells a reader to invert
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png", 24, 3), np.asarray(upright))


def test_any_size(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, size in enumerate([(1, 1), (3, 700), (640, 480), (32, 32)]):
        gradient(size=size).save(tmp_path / f"{i}.png")
    assert len(as_json(capsys, run.path, tmp_path)["images"]) == 4


def test_folders_are_searched(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a.jpg", "b/1.png", ".hidden/3.png", "b/.4.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        gradient().save(tmp_path / name, format="JPEG" if name.endswith("jpg") else "PNG")
    found = scan(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images] == ["a.jpg", "b/1.png", "b/2.PNG"]
    assert found.left_out == {"hidden": 2, ".txt": 1}


# what is no image


def broken_files(folder: Path) -> dict[str, str]:
    """Files and folders that cannot be used, and what the line about each says."""
    (folder / "text.png").write_text("this is not an image")
    (folder / "empty.jpg").write_bytes(b"")
    gradient(size=(200, 200)).save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "whole.png").unlink()
    # a PNG whose header claims 60,000 × 60,000 pixels
    header = b"IHDR" + struct.pack(">II", 60000, 60000) + data[24:29]
    (folder / "bomb.png").write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    (folder / "empty_folder").mkdir()
    return {
        "text.png": "not an image",
        "empty.jpg": "not an image",
        "cut.png": "cannot be",
        "bomb.png": "cannot be",
        "missing.png": "no such file",
        "empty_folder": "no image in this folder",
    }


def test_what_is_no_image_is_named_and_the_others_are_predicted(
    run: RunFolder, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = broken_files(tmp_path)
    mixed = [pictures / "000.png", *(tmp_path / name for name in bad), pictures / "001.png"]
    assert main([str(run.path), *map(str, mixed), "--json", "--batch-size=3"]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == len(bad)
    for line, (name, part) in zip(lines, bad.items(), strict=True):
        assert line.startswith(f"cifarfast: {tmp_path / name}: ")
        assert part in line
    found = json.loads(captured.out)
    assert [Path(row["path"]).name for row in found["images"]] == ["000.png", "001.png"]
    assert [Path(row["path"]).name for row in found["errors"]] == list(bad)
    assert main([str(run.path), str(tmp_path / "text.png")]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{run}", "{image}", "--top-k=0"], "--top-k 0"),
        (["{run}", "{image}", "--batch-size=0"], "--batch-size 0"),
        (["{run}"], ""),
        (["{tmp}/nothing", "{image}"], "there is no"),
        (["{tmp}", "{image}"], "neither a run folder nor a checkpoint"),
        (["{image}", "{image}"], "neither a run folder nor a checkpoint"),
        (["{tmp}/damaged", "{image}"], "no checkpoint in"),
        (["{tmp}/foreign", "{image}"], "not a cifarfast checkpoint"),
        (["{tmp}/without", "{image}"], "has no checkpoint"),
        (["{tmp}/plain", "{image}", "--weights=ema"], "no EMA"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], part: str, run: RunFolder, pictures: Path, tmp_path: Path, fails: Fails
) -> None:
    for name in ("damaged", "without", "plain"):
        make_run(tmp_path / name, dataset="synthetic:classes=3,train=9,test=9")
    (next((tmp_path / "damaged" / "checkpoints").iterdir()) / "model.safetensors").write_bytes(b"0")
    for path in (tmp_path / "without" / "checkpoints").iterdir():
        path.rename(tmp_path / "elsewhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text('{"format": "other"}')
    fill = {"run": run.path, "image": pictures / "000.png", "tmp": tmp_path}
    assert part in fails("predict", *(argument.format(**fill) for argument in arguments))
