"""``cifarfast export``: the files give the model's logits, with any batch, folded or not, without Triton; bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import make_run, rewrite_in_checkpoint
from mistakes import Fails
from torch import Tensor, nn

from cifarfast.commands import cli
from cifarfast.data import load_dataset
from cifarfast.ensembling import load_model
from cifarfast.ensembling.ensemble import ensemble
from cifarfast.errors import UserError
from cifarfast.exporting import fold_batch_norms, write
from cifarfast.exporting.export import export
from cifarfast.recipes.build import build_model
from cifarfast.recipes.recipe import Recipe
from cifarfast.runs.run_folder import RunFolder

SLOW = pytest.mark.slow
SMALL = "synthetic:classes=3,train=60,test=40"
# plain, batch norm after and before convolutions, ShakeDrop, another library's
ARCHS = {
    "plain": "cnn_tutorial",
    "bn": "plain_cnn_bn",
    "wrn": "wrn10_1",
    "pyramid": "pyramidnet8_a6_shakedrop",
    "torchvision": "torchvision:shufflenet_v2_x0_5",
}


def lived_in(model: nn.Module) -> None:
    """Batch norms as after a training: no statistic is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                assert tensor is not None
                tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    from unittest.mock import patch

    import made_up_runs

    def build(recipe: Recipe, data: Any) -> nn.Module:
        model = build_model(recipe, data)
        lived_in(model)
        return model

    folder = tmp_path_factory.mktemp("export")
    with patch.object(made_up_runs, "build_model", build):
        return {name: make_run(folder / name, dataset=SMALL, arch=arch) for name, arch in ARCHS.items()}


def images(count: int = 9) -> Tensor:
    return load_dataset(SMALL).test.images[:count]


def expected(run: RunFolder, batch: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return load_model(run.path)(batch).numpy()


def run_onnx(path: Path, batch: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0])


def onnx_nodes(path: Path) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.fixture(scope="module")
def plain(runs: dict[str, RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the plain network."""
    written, checked = export(runs["plain"].path, out=tmp_path_factory.mktemp("onnx") / "model.onnx")
    assert written.folded is None
    assert written.difference < 1e-4
    assert checked == f"40 test images of {SMALL}"
    return written.path


@pytest.mark.slow
def test_onnx_gives_the_models_logits(plain: Path, runs: dict[str, RunFolder]) -> None:
    for count in (1, 9):
        found = run_onnx(plain, images(count).numpy())
        assert np.allclose(found, expected(runs["plain"], images(count)), atol=1e-4)


@pytest.mark.parametrize(
    "name", ["pyramid", *(pytest.param(name, marks=SLOW) for name in ("bn", "wrn", "torchvision"))]
)
def test_folded_onnx_gives_the_models_logits(name: str, runs: dict[str, RunFolder], tmp_path: Path) -> None:
    written, _ = export(runs[name].path, fold_bn=True, out=tmp_path / "model.onnx")
    assert written.difference < 1e-4
    for count in (1, 9):
        found = run_onnx(written.path, images(count).numpy())
        assert np.allclose(found, expected(runs[name], images(count)), atol=1e-4)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in load_model(runs[name].path).modules())
    assert written.folded is not None
    assert written.folded.folded + written.folded.kept == norms
    assert onnx_nodes(written.path).count("BatchNormalization") == written.folded.kept
    # those that follow a sum stay
    assert (written.folded.kept > 0) == (name in ("wrn", "pyramid"))


@SLOW
def test_batch_norms_stay_unless_they_are_to_be_folded(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    kept, _ = export(runs["bn"].path, out=tmp_path / "kept.onnx")
    assert kept.folded is None
    assert onnx_nodes(kept.path).count("BatchNormalization") == 7


@pytest.mark.parametrize(("name", "fold"), [("pyramid", True), pytest.param("torchvision", False, marks=SLOW)])
def test_torch_export_gives_the_models_logits(
    name: str, fold: bool, runs: dict[str, RunFolder], tmp_path: Path
) -> None:
    written, _ = export(runs[name].path, format="torch-export", fold_bn=fold, out=tmp_path / "model.pt2")
    extra = {"cifarfast.json": ""}
    loaded = torch.export.load(written.path, extra_files=extra).module()
    for count in (1, 9):
        assert np.allclose(loaded(images(count)).detach(), expected(runs[name], images(count)), atol=1e-4)
    assert json.loads(json.loads(extra["cifarfast.json"])["classes"]) == ["pattern 0", "pattern 1", "pattern 2"]
    assert str(Path(__file__).parents[2]).encode() not in written.path.read_bytes()


@pytest.mark.parametrize("kind", [pytest.param("unit", marks=SLOW), "normalized"])
def test_other_kinds_of_input(kind: Any, tmp_path: Path) -> None:
    import onnx

    run = make_run(tmp_path / "run", dataset=SMALL, arch="linear")
    written, _ = export(run.path, input=kind, out=tmp_path / "model.onnx")
    batch = images().numpy().transpose(0, 3, 1, 2).astype(np.float32) / 255
    metadata = {entry.key: entry.value for entry in onnx.load(str(written.path)).metadata_props}
    if kind == "normalized":
        mean, std = (np.array(json.loads(metadata[key]), np.float32)[:, None, None] for key in ("mean", "std"))
        batch = (batch - mean) / std
    assert np.allclose(run_onnx(written.path, batch), expected(run, images()), atol=1e-4)


def test_what_the_file_says_about_itself(plain: Path) -> None:
    import onnx

    model = onnx.load(str(plain))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == ["pattern 0", "pattern 1", "pattern 2"]
    assert metadata["input"] == "uint8 [batch, 32, 32, 3], values 0…255"
    assert (metadata["arch"], metadata["dataset"]) == ("cnn_tutorial", "synthetic")
    (taken,), (given,) = model.graph.input, model.graph.output
    sizes = [d.dim_param or d.dim_value for d in taken.type.tensor_type.shape.dim]
    assert (taken.name, sizes) == ("images", ["batch", 32, 32, 3])
    assert (given.name, given.type.tensor_type.shape.dim[0].dim_param) == ("logits", "batch")
    assert model.opset_import[0].version == write.OPSET
    assert str(Path(__file__).parents[2]).encode() not in plain.read_bytes()


@pytest.mark.parametrize("kind", ["uint8", pytest.param("unit", marks=SLOW)])
def test_images_that_the_model_enlarges_are_enlarged_in_the_file(kind: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dataset="synthetic:classes=3,train=60,test=40,size=16", resize=24, arch="linear")
    batch = load_dataset("synthetic:classes=3,train=60,test=40,size=16").test.images[:5]
    written, _ = export(run.path, input=kind, out=tmp_path / "model.onnx")
    given = batch.numpy() if kind == "uint8" else batch.numpy().transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert np.allclose(run_onnx(written.path, given), expected(run, batch), atol=1e-4)
    assert "16, 16" in written.shape


def test_an_ensemble(tmp_path: Path, fails: Fails) -> None:
    members = [make_run(tmp_path / arch, dataset=SMALL, arch=arch) for arch in ("linear", "mlp100")]
    made = ensemble(members, weights=[0.3, 0.7], out=tmp_path / "e")
    written, _ = export(made.path)
    assert written.path == made.path / "model.onnx"
    with torch.inference_mode():
        logits = load_model(made.path)(images()).numpy()
    assert np.allclose(run_onnx(written.path, images().numpy()), logits, atol=1e-4)
    assert "normalise each in its own way" in fails("export", made.path, "--input=normalized")


def test_the_command(runs: dict[str, RunFolder], capsys: pytest.CaptureFixture[str]) -> None:
    step = next(runs["bn"].checkpoints.iterdir())
    assert cli.main(["export", str(step), "--format=torch-export", "--fold-bn"]) == 0
    out = capsys.readouterr().out
    path = runs["bn"].path / "model.pt2"
    for part in (f"{path}: ", "uint8 [batch, 32, 32, 3]", "batch norms: 7 folded\n", "40 test images", "at most"):
        assert part in out
    assert path.exists()
    assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".new")] == []


# folding


class Layers(nn.Module):
    """Every case of folding: with and without bias, affine or not, grouped, linear; shared, after a sum, before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding="same")
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, bias=False, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8)])
        self.shared = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)
        self.last = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[1](self.grouped(self.norms[0](self.conv(x)).relu()))
        y = self.shared(x)
        return self.last(self.fc((self.norms[2](y) + y).mean((2, 3))))


def test_folding_changes_no_output() -> None:
    torch.manual_seed(0)
    model = Layers().eval()
    for norm in (*model.norms, model.last):
        norm.running_mean.uniform_(-1, 1)  # type: ignore[operator,union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[operator,union-attr]
    x = torch.randn(4, 3, 11, 11)
    graph = torch.export.export(model, (x,)).module(check_guards=False)
    assert isinstance(graph, torch.fx.GraphModule)
    folded = fold_batch_norms(graph)
    assert (folded.folded, folded.kept) == (3, 1)  # the one whose convolution is also read by the sum stays
    assert torch.allclose(graph(x), model(x), atol=1e-5)
    names = [name for name, _ in (*graph.named_parameters(), *graph.named_buffers())]
    assert not any("norms.0" in name or name.startswith("conv.") for name in names)


# without Triton, without ONNX, with a file that is wrong

WITHOUT_TRITON = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from cifarfast.commands.export import main
code = main(sys.argv[1:])
assert not any(name.partition(".")[0] == "triton" for name in sys.modules)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["onnx", "torch-export"])
def test_without_triton(file_format: str, runs: dict[str, RunFolder], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TRITON, str(runs["pyramid"].path), f"--format={file_format}", "--fold-bn"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'model'}"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "checked on 40 test images" in done.stdout
    # torch itself remarks that it counts no FLOPs of Triton kernels
    assert [line for line in done.stderr.splitlines() if "flop_counter" not in line] == []


def test_without_the_packages_of_onnx(
    runs: dict[str, RunFolder], monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    original = write.importlib.util.find_spec
    monkeypatch.setattr(
        write.importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else original(name)
    )
    assert "cifarfast[export]" in fails("export", runs["plain"].path)


def test_a_file_that_does_not_give_the_models_logits_is_not_left(
    runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("from before")
    original = write._program_runner

    def off_by_a_little(file: Path) -> write.Runner:
        run = original(file)
        return lambda inputs: run(inputs) + 2e-3

    monkeypatch.setattr(write, "_program_runner", off_by_a_little)
    error = fails("export", runs["plain"].path, "--format=torch-export", f"--out={path}")
    assert "was not written: its logits differ" in error
    assert path.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [path]


def test_without_the_data_set_made_up_images_are_used(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dataset=SMALL)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace(SMALL, "folder:/nowhere"))
    (step,) = run.checkpoints.iterdir()
    state = (step / "state.json").read_text().replace(SMALL, "folder:/nowhere")
    rewrite_in_checkpoint(step, "state.json", state.encode())
    _, checked = export(run.path, format="torch-export")
    assert checked.startswith("64 made-up images")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{tmp}/nothing"], "there is no"),
        (["{tmp}"], "neither a run folder nor a checkpoint"),
        (["{run}", "--format=pickle"], ""),
        (["{run}", "--weights=ema"], "no EMA"),
        (["{run}", "--format=torch-export", "--out={run}/config.toml/model.pt2"], "cannot write"),
        (["{run}", "--fold"], "--fold-bn"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], part: str, runs: dict[str, RunFolder], tmp_path: Path, fails: Fails
) -> None:
    fill = {"run": runs["plain"].path, "tmp": tmp_path}
    assert part in fails("export", *(argument.format(**fill) for argument in arguments))


def test_a_model_that_cannot_be_traced(runs: dict[str, RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    model = load_model(runs["plain"].path)
    model.model = Branches()  # type: ignore[assignment]
    monkeypatch.setattr("cifarfast.exporting.export.load_model", lambda *_, **__: model)
    with pytest.raises(UserError, match="cannot trace this model"):
        export(runs["plain"].path, format="torch-export")
