"""The Python interface: train, load and Run, as a script or a notebook uses them."""

import contextlib
import copy
import dataclasses
import doctest
import pickle
import pydoc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import leave_figures_undrawn
from mistakes import refused
from PIL import Image
from processes import InForeground, _context, finish, wait_until

import cifarfast
from cifarfast.api import Run
from cifarfast.api.loaded_model import LoadedModel
from cifarfast.data import load_dataset
from cifarfast.errors import UserError
from cifarfast.models import create_model
from cifarfast.models.plain_cnn import TutorialCNN
from cifarfast.recipes.recipe import Recipe, load_recipe
from cifarfast.runs.checkpoint import checkpoint_folders, load_checkpoint
from cifarfast.training.engine import Trainer
from cifarfast.training.progress_bar import progress_bar


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A grey network that keeps averaged weights too."""
    out = tmp_path_factory.mktemp("api") / "run"
    return cifarfast.train("quickstart", epochs=3, ema_decay=0.5, limit_train=128, out=out, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("api") / "other"
    return cifarfast.train("quickstart", epochs=1, seed=1, limit_train=128, out=out, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def model(run: Run) -> LoadedModel:
    return cifarfast.load(run, device="cpu")


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A network of colour images of 24 pixels a side."""
    data, out = "synthetic:classes=3,train=48,test=12,size=24", tmp_path_factory.mktemp("api") / "colour"
    return cifarfast.load(
        cifarfast.train(dataset=data, arch="cnn_tutorial", epochs=1, batch_size=16, out=out, quiet=True)
    )


# import


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_fast_and_leaves_torch_alone() -> None:
    code = "import time; t = time.perf_counter(); import cifarfast; s = time.perf_counter() - t; import sys; "
    seconds, loaded = python("-c", code + "print(s, 'torch' in sys.modules)").split()
    assert float(seconds) < 0.1
    assert loaded == "False"


IMPORTS = [  # each in a process of its own, which has the other packages already
    "import cifarfast",
    "import cifarfast.train",
    "import cifarfast.api; import cifarfast.train",
    "from cifarfast import train; import cifarfast.train; assert train is cifarfast.train",
    "from cifarfast.api import train; import cifarfast.commands.train",
    "import cifarfast.train as function; import cifarfast; assert function is cifarfast.train",
]
FORKS = """
import os, sys, types, inspect, torch, tyro, pydantic, sklearn.metrics, triton, tqdm.auto, PIL.Image, safetensors.torch
for imports in {imports}:
    if os.fork() == 0:
        exec(imports)
        assert isinstance(cifarfast.train, types.FunctionType) and cifarfast.train is cifarfast.api.train
        print(list(inspect.signature(cifarfast.train).parameters), flush=True)
        os._exit(0)
    if os.wait()[1] != 0:
        sys.exit(imports)
"""


@pytest.mark.slow
def test_train_is_the_function_however_it_is_imported() -> None:
    printed = python("-c", FORKS.format(imports=IMPORTS)).splitlines()
    assert printed == ["['recipe', 'out', 'resume', 'quiet', 'after_epoch', 'settings']"] * len(IMPORTS)


def test_help_documents_the_call() -> None:
    text = pydoc.render_doc(cifarfast.train, renderer=pydoc.plaintext)
    assert "train(recipe: " in text
    assert "Train an image classifier and return its run." in text


def test_the_module_still_runs_as_a_command() -> None:
    assert "--recipe" in python("-m", "cifarfast.train", "--help")


def test_names() -> None:
    assert set(cifarfast.__all__) <= set(dir(cifarfast))
    assert all(getattr(cifarfast, name) is not None for name in cifarfast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        cifarfast.trian  # noqa: B018


# the examples in docstrings


def test_the_examples_of_the_docstrings_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    step = Trainer.train_step  # an epoch's first is enough
    monkeypatch.setattr(Trainer, "train_step", lambda t, count, i: i % t.steps_per_epoch or step(t, count, i))
    results = [doctest.testmod(sys.modules[f"cifarfast.api.{name}"]) for name in ("run", "training", "loading")]
    assert sum(result.attempted for result in results) >= 12
    assert all(result.attempted and not result.failed for result in results)


# train


def test_a_run_knows_what_is_in_its_folder(run: Run) -> None:
    again = Run(run.path)
    assert again.finished
    assert isinstance(again.recipe, Recipe)
    assert (again.recipe.epochs, again.recipe.ema_decay) == (3, 0.5)
    assert [row["epoch"] for row in again.metrics] == [row["epoch"] for row in again.timing] == [1, 2, 3]
    assert again.environment["data"]["dataset"] == "digits"
    predictions = again.predictions
    assert predictions.classes == tuple("0123456789")
    assert predictions.accuracy_percent == pytest.approx(again.result["test_accuracy_percent"])
    assert len(predictions) == len(predictions.labels) == 359
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(predictions.predicted, predictions.probabilities.argmax(axis=1))
    np.testing.assert_array_equal(predictions.correct, predictions.predicted == predictions.labels)
    np.testing.assert_array_equal(predictions.confidence, predictions.probabilities.max(axis=1))
    assert f"{again.result['test_accuracy_percent']:.2f} %" in repr(again)
    assert again.evaluate().scores.accuracy_percent == again.result["test_accuracy_percent"]


def test_a_run_writes_its_report(run: Run, other: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_figures_undrawn(monkeypatch)
    path = run.report(other, out=tmp_path / "both.html")
    assert path.read_text(encoding="utf-8").count("quickstart") >= 2
    with pytest.raises(UserError, match="not a run folder"):
        run.report(tmp_path / "absent", out=tmp_path / "again.html")


def test_what_train_takes_as_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'dataset = "digits"\narch = "linear"\nepochs = 1\nlimit_train = 64\nbatch_size = 32\n'
    )
    by_file = cifarfast.train(tmp_path / "mine.toml", out=tmp_path / "file", quiet=True)
    recipe = dataclasses.replace(load_recipe(str(tmp_path / "mine.toml"))[0], epochs=5)
    by_value = cifarfast.train(recipe, epochs=1, out=tmp_path / "value", quiet=True)
    assert by_file.recipe == by_value.recipe
    assert by_file.metrics == by_value.metrics
    settings: dict[str, Any] = {"dataset": "digits", "arch": "linear", "epochs": 1}
    by_default = cifarfast.train(**settings, limit_train=64, batch_size=32, out=tmp_path / "default", quiet=True)
    assert by_default.metrics == by_value.metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "quikstart"}, "did you mean 'quickstart'"),
        ({"recipe": "quickstart", "epoch": 3}, "settings: unknown setting 'epoch', did you mean 'epochs'?"),
        ({"recipe": "quickstart", "epochs": 0}, "settings: epochs = 0: must be greater than or equal to 1"),
        ({"recipe": "quickstart", "epochs": "3"}, "settings: epochs = '3': must be a valid integer"),
        ({"recipe": "quickstart", "epochs": None}, "settings: epochs = None: must be a valid integer"),
        ({"recipe": "quickstart", "epoch": None}, "settings: unknown setting 'epoch'"),
        ({"recipe": "quickstart", "resume": True}, "resume needs out"),
    ],
)
def test_mistakes_in_train(arguments: dict[str, Any], message: str) -> None:
    with refused(message):
        cifarfast.train(**arguments)


def test_quiet_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cifarfast.train("quickstart", epochs=1, limit_train=64, out=tmp_path / "a", quiet=True)
    assert capfd.readouterr() == ("", "")
    cifarfast.train("quickstart", epochs=1, limit_train=64, out=tmp_path / "b")
    assert "epoch   1" in capfd.readouterr().out


def train_forever(out: Path, log: Path) -> None:
    InForeground()()
    with log.with_suffix(".out").open("w"), log.with_suffix(".err").open("w") as error:
        try:
            cifarfast.train("quickstart", epochs=10_000, limit_train=64, out=out, quiet=True)
        except KeyboardInterrupt as stop:
            error.write(str(stop))
            sys.exit(3)


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    process = _context.Process(target=train_forever, args=(tmp_path / "run", tmp_path / "log"))
    process.start()
    wait_until((tmp_path / "run" / "metrics.csv").exists, process)
    assert process.pid is not None
    subprocess.run(["kill", "-INT", str(process.pid)], check=True)
    done = finish(process, tmp_path / "log")
    assert done.code == 3
    assert "resume=True" in done.stderr
    stopped = Run(tmp_path / "run")
    assert not stopped.finished
    assert "not finished" in repr(stopped)
    with pytest.raises(UserError, match="started with other settings: epochs: 1 ≠ 10000"):
        cifarfast.train("quickstart", epochs=1, limit_train=64, out=stopped.path, resume=True, quiet=True)


def test_resume_without_a_recipe_takes_the_runs(run: Run, tmp_path: Path) -> None:
    again = cifarfast.train(out=run.path, resume=True, quiet=True)
    assert again.result == run.result
    with pytest.raises(UserError, match="holds a run"):
        cifarfast.train("quickstart", out=run.path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        Run(tmp_path)


# the bar


def test_the_bar_shows_in_a_notebook_and_not_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress_bar(total=3).disable  # pytest's stderr is no terminal
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not progress_bar(total=3).disable
    assert progress_bar(total=3, shown=False).disable
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert progress_bar(total=3).disable


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    made: list[Run] = []
    settings: dict[str, Any] = {"epochs": 1, "limit_train": 64, "out": tmp_path / "run", "quiet": True}
    thread = threading.Thread(target=lambda: made.append(cifarfast.train("quickstart", **settings)))
    thread.start()
    thread.join()
    assert made[0].finished


# load


def test_a_loaded_model_is_its_network(run: Run, model: LoadedModel) -> None:
    checkpoint = load_checkpoint(checkpoint_folders(run.path / "checkpoints")[0])
    assert isinstance(model, TutorialCNN)
    assert not model.training
    assert model.state_dict().keys() == checkpoint.tensors["ema"].keys()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in _plain().named_parameters()]
    _plain().load_state_dict(model.state_dict())
    plain = cifarfast.load(run, weights="model")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, checkpoint.tensors["model"][name])
        assert torch.equal(model.state_dict()[name], checkpoint.tensors["ema"][name])
    assert (model.classes, model.image_size, model.in_channels) == (tuple("0123456789"), 32, 1)
    assert model.recipe.ema_decay == 0.5


def _plain() -> torch.nn.Module:
    return create_model("cnn_tutorial", num_classes=10, in_channels=1, image_size=32)


def test_its_predictions_are_the_runs(run: Run, model: LoadedModel) -> None:
    images = load_dataset("digits").test.images
    probabilities = model.predict(images, batch_size=100)
    np.testing.assert_allclose(probabilities.numpy(), run.predictions.probabilities, atol=1e-6)
    logits = model(model.preprocess(images))
    np.testing.assert_allclose(logits.detach().numpy(), run.predictions.logits, atol=1e-5, rtol=1e-5)
    assert logits.requires_grad
    assert not probabilities.requires_grad


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8)


def test_predict_keeps_the_mode_and_ignores_it(colour_model: LoadedModel) -> None:
    dropping = copy.deepcopy(colour_model)
    dropping.fc1 = torch.nn.Sequential(torch.nn.Dropout(0.9), dropping.fc1)
    dropping.train()
    assert torch.equal(dropping.predict(IMAGES), colour_model.predict(IMAGES))
    assert dropping.training


def test_copies_and_pickles(colour_model: LoadedModel, tmp_path: Path) -> None:
    torch.save(colour_model, tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    for other in (copy.deepcopy(colour_model), pickle.loads(pickle.dumps(colour_model)), loaded):
        assert type(other) is type(colour_model)
        assert torch.equal(other.predict(IMAGES), colour_model.predict(IMAGES))
        with torch.no_grad():
            next(other.parameters()).zero_()
        assert not torch.equal(other.predict(IMAGES), colour_model.predict(IMAGES))


def test_a_model_in_another_type_still_takes_its_preprocessing(colour_model: LoadedModel) -> None:
    double = copy.deepcopy(colour_model).to(torch.float64)
    logits = double(double.preprocess(IMAGES).double())
    np.testing.assert_allclose(logits.softmax(1).detach().numpy(), colour_model.predict(IMAGES).numpy(), atol=1e-5)


def test_images_of_every_kind_are_the_same_images(colour_model: LoadedModel) -> None:
    expected = colour_model.preprocess(IMAGES)
    assert expected.shape == (5, 3, 24, 24)
    assert expected.dtype == torch.float32
    tensor = torch.from_numpy(IMAGES)
    pictures = [Image.fromarray(image) for image in IMAGES]
    for same in (tensor, list(IMAGES), list(tensor), pictures, tuple(pictures), iter(pictures)):
        assert torch.equal(colour_model.preprocess(same), expected)
    for one in (IMAGES[0], tensor[0], pictures[0]):
        assert torch.equal(colour_model.preprocess(one), expected[:1])
    floats = tensor.permute(0, 3, 1, 2) / 255
    for same in (floats, floats.double(), floats.numpy(), list(floats)):
        np.testing.assert_allclose(colour_model.preprocess(same).numpy(), expected.numpy(), atol=2e-6)
    floats.requires_grad_()
    colour_model(colour_model.preprocess(floats)).sum().backward()
    assert floats.grad is not None
    assert floats.grad.abs().sum() > 0


def test_images_of_other_sizes_are_resized_as_data_sets_are(colour_model: LoadedModel, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            pixels = draws.integers(0, 256, (60, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    data = load_dataset(f"folder:{tmp_path}", image_size=24)
    stored = {image.numpy().tobytes() for part in (data.train, data.test) for image in part.images}
    pictures = [Image.open(path) for path in sorted(tmp_path.glob("*/*.png"))]
    expected = colour_model.preprocess(pictures)
    assert expected.shape == (4, 3, 24, 24)
    assert torch.equal(colour_model.preprocess(sorted(tmp_path.glob("*/*.png"))), expected)
    assert torch.equal(colour_model.preprocess(str(tmp_path / "cat" / "0.png")), expected[:1])
    again = {np.asarray(picture.resize((24, 24), Image.Resampling.BILINEAR)).tobytes() for picture in pictures}
    assert again == stored
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    assert torch.equal(colour_model.preprocess(arrays), expected)
    floats = torch.from_numpy(arrays).permute(0, 3, 1, 2) / 255
    np.testing.assert_allclose(colour_model.preprocess(floats).numpy(), expected.numpy(), atol=0.03)  # Pillow rounds


def test_grey_and_colour(model: LoadedModel, colour_model: LoadedModel) -> None:
    colour = Image.new("RGBA", (32, 32), (200, 10, 10, 128))
    assert model.preprocess(colour).shape == (1, 1, 32, 32)
    laid_on_white = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("L")
    assert torch.equal(model.preprocess(colour), model.preprocess(np.asarray(laid_on_white)))
    grey = Image.new("L", (24, 24), 77)
    assert torch.equal(colour_model.preprocess(grey), colour_model.preprocess(np.full((24, 24, 3), 77, np.uint8)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 24, 24), np.uint8), "uint8 images must be [N, H, W, 3] or [H, W, 3], not [2, 3, 24, 24]"),
        (np.zeros((24, 24), np.uint8), "not [24, 24]"),
        (np.zeros((2, 24, 24, 3), np.float32), "floating-point images must be [N, 3, H, W] or [3, H, W]"),
        (np.full((2, 3, 24, 24), 2.0, np.float32), "must have values 0…1, these have 2…2"),
        (np.full((2, 3, 24, 24), np.nan, np.float32), "must have values 0…1"),
        (np.zeros((0, 24, 24, 3), np.uint8), "not [0, 24, 24, 3]"),
        (np.zeros((1, 24, 24, 3), np.int64), "must be uint8 (0…255) or floating-point (0…1), not torch.int64"),
        (np.zeros((1, 24, 24, 3), np.uint16), "uint16"),
        ("cat.png", "cat.png: cannot be read: No such file"),
        (["cat.png", 3], "cat.png"),
        (3, "got int"),
        ([], "got list"),
        ([np.zeros((24, 24, 3), np.uint8), np.zeros((3, 24, 24), np.float32)], "partly uint8"),
        (Image.new("F", (24, 24)), "an image cannot be used: its pixels (F) have no fixed range"),
    ],
)
def test_images_that_are_none(images: Any, message: str, colour_model: LoadedModel) -> None:
    with refused(message):
        colour_model.predict(images)


def test_what_load_takes(run: Run, model: LoadedModel, tmp_path: Path) -> None:
    images = load_dataset("digits").test.images[:20]
    checkpoint = checkpoint_folders(run.path / "checkpoints")[0]
    for given in (run.path, str(run.path), run.folder, checkpoint):
        assert torch.equal(cifarfast.load(given).predict(images), model.predict(images))
    assert torch.equal(run.load().predict(images), model.predict(images))
    wrong: list[tuple[str, Any, str]] = [
        ("there is no", tmp_path / "absent", "cpu"),
        ("nor a checkpoint of ours", tmp_path, "cpu"),
        ("device 'gpu'", run, "gpu"),
    ]
    if not torch.cuda.is_available():
        wrong.append(("no GPU", run, "cuda:0"))
    for message, given, device in wrong:
        with refused(message):
            cifarfast.load(given, device=device)


def test_an_ensemble_loads_as_one_model(run: Run, other: Run, tmp_path: Path) -> None:
    from cifarfast.ensembling.ensemble import ensemble

    both = Run(ensemble([run.path, other.path], out=tmp_path / "both").path)
    images = load_dataset("digits").test.images
    loaded = both.load()
    np.testing.assert_allclose(loaded.predict(images).numpy(), both.predictions.probabilities, atol=2e-5)
    mean = (run.load().predict(images) + other.load().predict(images)) / 2
    np.testing.assert_allclose(loaded.predict(images).numpy(), mean.numpy(), atol=2e-5)
    assert both.classes == run.classes


@pytest.mark.gpu
def test_on_a_gpu(run: Run, model: LoadedModel) -> None:
    images = load_dataset("digits").test.images
    on_gpu = cifarfast.load(run, device="cuda")
    assert on_gpu.preprocess(images).device.type == "cuda"
    np.testing.assert_allclose(on_gpu.predict(images).cpu().numpy(), model.predict(images).numpy(), atol=1e-4)
    back = on_gpu.to("cpu")
    np.testing.assert_allclose(back.predict(images).numpy(), model.predict(images).numpy(), atol=1e-5)


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    yield


@contextlib.contextmanager
def as_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_line_17_torch_is_left_as_it_was_and_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator's state, the default type and the grad mode, through train, load, evaluate and report."""
    leave_figures_undrawn(monkeypatch)
    settings: dict[str, Any] = {"dataset": "synthetic:classes=3,train=40,test=12", "arch": "linear", "epochs": 1}
    outcomes = []
    for number, mode in enumerate((nothing, as_double, torch.no_grad, torch.inference_mode)):
        with mode():
            torch.manual_seed(number)
            before, dtype, grad = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()
            run = cifarfast.train(**settings, batch_size=8, ema_decay=0.5, out=tmp_path / f"{number}", quiet=True)
            model = run.load(device="cpu")
            scores = run.evaluate(device="cpu").scores
            run.report()
            assert torch.equal(torch.get_rng_state(), before)
            assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (dtype, grad)
            weights = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
            assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
        outcomes.append((run.predictions.logits.tolist(), scores.to_json(), weights))
    assert all(outcome == outcomes[0] for outcome in outcomes)
