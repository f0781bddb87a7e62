"""What 16 bits and transparency become, data without a network, and recipes, paths and arrays in every form.

The numbers in names are those of the requirements.
"""

import dataclasses
import hashlib
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_data import TINY, classes, write_cifar10
from made_up_runs import make_run
from mistakes import Fails, refused
from PIL import Image
from processes import run_inline

import cifarfast
from cifarfast.data import cifar, image_files, load_dataset
from cifarfast.data.image_files import read_image
from cifarfast.recipes.recipe import load_recipe, parse_recipe, to_toml

# 14: pixels


def test_line_14_sixteen_bits_whose_values_fit_in_eight(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 3 + 66
    assert values.max() == 255
    for suffix in (".png", ".tiff"):
        Image.fromarray(values).save(tmp_path / f"small{suffix}")
        assert np.array_equal(read_image(tmp_path / f"small{suffix}", 8, 1)[..., 0], values)
        Image.fromarray(values + 1).save(tmp_path / f"large{suffix}")
        expected = np.round((values + 1) * (255 / 65535))
        assert np.array_equal(read_image(tmp_path / f"large{suffix}", 8, 1)[..., 0], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "L", "I;16"])
@pytest.mark.parametrize(("background", "shown"), [("white", 255), ("black", 0), ("none", 60)])
def test_line_14_transparency_is_laid_on_a_background(mode: str, background: Any, shown: int, tmp_path: Path) -> None:
    """The left half of an image of value 60 is transparent; the right half has value 90."""
    grey = np.full((8, 8), 90, np.uint8)
    grey[:, :4] = 60
    alpha = Image.fromarray(np.where(grey == 60, 0, 255).astype(np.uint8))
    path, options = tmp_path / "x.png", {}
    if mode == "I;16":
        picture, options = Image.fromarray(grey.astype(np.uint16)), {"transparency": 60}
    elif mode in ("RGB", "L"):
        picture, options = Image.fromarray(grey).convert(mode), {"transparency": 60 if mode == "L" else (60, 60, 60)}
    else:
        picture = Image.fromarray(grey).convert({"RGBA": "RGB", "LA": "L"}.get(mode, "P"))
        if picture.mode == "P":
            picture.putpalette([k for value in range(256) for k in (value,) * 3])
        if mode == "P":
            options = {"transparency": 60}
        else:
            picture.putalpha(alpha)
    assert picture.mode == mode
    if mode == "PA":  # no file has it
        found = image_files.to_pixels(picture, 8, 3, background)
    else:
        picture.save(path, **options)
        found = read_image(path, 8, 3, background)
    expected = np.where(grey == 60, shown, 90)
    assert np.array_equal(found, np.repeat(expected[..., None], 3, 2))


def test_line_14_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (1, 1), (100, 0, 200, 51))  # a fifth
    assert image_files.to_pixels(image, None, 3).tolist() == [[[224, 204, 244]]]
    assert image_files.to_pixels(image, None, 3, "black").tolist() == [[[20, 0, 40]]]


def test_line_14_data_sets_predict_and_python_share_the_recipe_s_background(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, name in enumerate("ab"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            image = Image.new("RGBA", (8, 8), (10 * k, i, 0, 255))
            image.putpixel((0, 0), (50, 50, 50, 0))
            image.save(tmp_path / "data" / name / f"{i}.png")
    for background, value in (("black", 0), ("white", 255)):
        run = tmp_path / background
        options = [f"--background={background}"] if background == "black" else []
        arguments = [f"--dataset=folder:{tmp_path / 'data'}", *TINY, *options, f"--out={run}"]
        assert run_inline(arguments).code == 0
        assert load_dataset(f"folder:{tmp_path / 'data'}", background=background).train.images[0, 0, 0, 0] == value
        model = cifarfast.load(run, device="cpu")
        file = tmp_path / "data" / "a" / "0.png"
        plain = np.full((8, 8, 3), 0, np.uint8)
        plain[0, 0] = value
        with Image.open(file) as opened:
            assert torch.equal(model.predict(opened), model.predict(plain))
        assert torch.equal(model.predict(str(file)), model.predict(plain))
        assert cifarfast.commands.cli.main(["predict", str(run), str(file)]) == 0
        confidence = 100 * float(model.predict(plain).max())
        assert f"{confidence:.1f} %" in capsys.readouterr().out


# 15: offline


@pytest.mark.parametrize(("name", "member"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_line_15_a_published_archive_in_the_data_folder(
    name: str, member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "cifar10":
        write_cifar10(tmp_path / "made" / member)
    else:
        (tmp_path / "made" / member).mkdir(parents=True)
        for seed, part in enumerate(("train", "test")):
            rows = np.random.default_rng(seed).integers(0, 256, (4, 3072), np.uint8)
            entry = {"data": rows, "fine_labels": [0, 1, 2, 99]}
            (tmp_path / "made" / member / part).write_bytes(pickle.dumps(entry, 2))
    data = tmp_path / "data"
    data.mkdir()
    archive = data / f"{member.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "made" / member, arcname=member)
    with refused(archive.name, "has the md5", "the published archive", match="get it again"):
        load_dataset(name, data_dir=data, download=False)
    assert [path.name for path in data.iterdir()] == [archive.name]
    family = cifar.family(name)
    monkeypatch.setattr(cifar, "family", lambda _: dataclasses.replace(family, archive_md5=digest(archive)))
    splits = load_dataset(name, data_dir=data, download=False)
    assert len(splits.train) in (4, 20)
    assert sorted(path.name for path in data.iterdir()) == sorted([archive.name, member])


def digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_line_15_names_are_checked_before_data_are_loaded(
    tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", dataset="synthetic:classes=3,train=40,test=12")

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("data were loaded")

    for place in ("registry.load_cifar", "registry.load_emnist", "registry.read_parts", "registry.load_synthetic"):
        monkeypatch.setattr(f"cifarfast.data.{place}", loaded)
    for arch in ("nope", "timm:nope", "torchvision:nope"):
        said = fails("train", f"--arch={arch}", f"--out={tmp_path / 'new'}", f"--data-dir={tmp_path}")
        assert "model 'nope'" in said
    classes(tmp_path / "images", ("x", "y"))
    (tmp_path / "t.csv").write_text("path,label\nimages/x/0.png,x\nimages/y/0.png,y\n")
    for name in ("cifar10", "emnist_letters", f"folder:{tmp_path / 'images'}", f"csv:{tmp_path / 't.csv'}"):
        assert "have no mapping" in fails("evaluate", run.path, f"--dataset={name}", f"--data-dir={tmp_path}")


def test_line_18_a_tag_of_pretrained_weights_is_refused(fails: Fails) -> None:
    pytest.importorskip("timm")
    said = fails("train", "--arch=timm:resnet18.a1_in1k", "--dataset=digits")
    assert "a1_in1k names pretrained weights, which are not loaded; timm:resnet18 trains from random ones" in said


# 16: recipes, paths, views

RECIPE = 'arch = "lenet5"\nepochs = 3\n\n[about]\ndescription = "grüße"\n'


@pytest.mark.parametrize(
    ("encode", "reads"),
    [
        (lambda text: text.encode(), True),
        (lambda text: text.encode("utf-8-sig"), True),
        (lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"), True),
        (lambda text: text.encode("utf-16"), False),
        (lambda text: text.replace("üß", "us").encode("utf-16-le"), False),
        (lambda text: text.encode("latin-1"), False),
    ],
    ids=["UTF-8", "BOM", "CRLF", "UTF-16", "UTF-16 without BOM", "Latin-1"],
)
def test_line_16_encodings_of_recipes(encode: Callable[[str], bytes], reads: bool, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(encode(RECIPE))
    if reads:
        assert load_recipe(str(tmp_path / "mine.toml")) == parse_recipe(RECIPE, where="text", name="mine")
    else:
        with refused("mine.toml is not text in UTF-8: save it in that encoding"):
            load_recipe(str(tmp_path / "mine.toml"))


def test_line_16_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "r.toml").write_text('arch = "linear"\nepochs = 1\nbatch_size = 4\ncrop_padding = 0\n')
    classes(tmp_path / "data")
    main = cifarfast.commands.cli.main
    common = ["--recipe=~/r.toml", "--dataset=folder:~/data", "--data-dir=~"]
    assert main(["train", *common, "--out=~/run"]) == 0
    assert main(["augment-preview", *common, "--out=~/preview.png"]) == 0
    assert main(["evaluate", "~/run", "--dataset=folder:~/data"]) == 0
    assert main(["predict", "~/run", "~/data/a", "~/data/b/0.png"]) == 0
    assert main(["report", "~/run", "--out=~/report.html"]) == 0
    assert main(["export", "~/run", "--format=torch-export", "--out=~/model.pt2"]) == 0
    run = cifarfast.train("~/r.toml", dataset="folder:~/data", out="~/second", quiet=True)
    assert cifarfast.Run("~/second").path == run.path == tmp_path / "second"
    assert len(cifarfast.load("~/run", device="cpu").predict(["~/data/a/0.png"])) == 1
    assert main(["ensemble", "~/run", "~/second", "--weights", "1", "1", "--out=~/both"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"run", "preview.png", "report.html", "both", "model.pt2", "second"}
    assert list(elsewhere.iterdir()) == []
    for arguments in (["train", "--data-dir=~nobody-here"], ["evaluate", "~nobody-here/run"]):
        assert "~nobody-here" in fails(*arguments)


def test_line_16_array_views_equal_their_copies(tmp_path: Path) -> None:
    model = cifarfast.load(
        make_run(tmp_path / "run", dataset="synthetic:classes=3,train=40,test=12").path, device="cpu"
    )
    side, channels = model.image_size, model.in_channels
    drawn = np.random.default_rng(0)
    pixels = drawn.integers(0, 256, (6, side, side, channels), np.uint8)
    floats = drawn.random((6, channels, side, side), np.float32)
    for images in (pixels, floats):
        views = [
            *(images[::-1], images[::2], images[:, ::-1], images[..., ::-1], np.asfortranarray(images)),
            np.repeat(images, 2, axis=2)[:, :, ::2],
        ]
        if images is floats:
            views += [images.astype(">f4"), images.astype(np.float64)[::-1]]
        for view in views:
            copy = np.array(view, dtype=view.dtype.newbyteorder("="), order="C", copy=True)
            assert torch.equal(model.predict(view), model.predict(copy))
            if view.dtype.isnative and min(view.strides) >= 0:
                assert torch.equal(model.predict(torch.from_numpy(view)), model.predict(copy))
    with refused("images must be uint8"):
        model.predict(floats.astype(np.longdouble))


def test_line_16_paths_that_are_not_utf_8_stand_in_recipes() -> None:
    recipe = parse_recipe("", where="text", name="x")[0]
    path = os.fsdecode(b"folder:/caf\xe9/\xff")
    changed = cifarfast.recipes.recipe.with_settings(recipe, {"dataset": path, "data_dir": path}, "here")
    text = to_toml(changed)
    assert parse_recipe(text.encode().decode(), where="text", name="x")[0] == changed
