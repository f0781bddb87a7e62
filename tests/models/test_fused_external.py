"""Models of torchvision and timm on fused ops."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from small_steps import BATCH, make_step
from torch import Tensor, nn

from cifarfast.commands import train
from cifarfast.kernels import BatchNormAct2d
from cifarfast.models import create_model, fuse, stored_in_channels, true_shapes
from cifarfast.optim import unmoved_statistics
from cifarfast.runs.checkpoint import checkpoint_folders, load_checkpoint

DENSE = {"growth_rate": 8, "block_config": (2, 2), "num_init_features": 16, "num_classes": 10}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision:resnet18": lambda: create_model("torchvision:resnet18"),
    "torchvision's densenet": lambda: torchvision.models.DenseNet(**DENSE),
    "timm's resnet10t": lambda: pytest.importorskip("timm").create_model("resnet10t", num_classes=10),
}
TWO_STEPS = ["--dataset=synthetic:classes=3,train=32,test=6", "--batch-size=16", "--epochs=1", "--crop-padding=0"]
TWO_STEPS += ["--flip=none", "--arch=torchvision:shufflenet_v2_x0_5", "--quiet"]


def _pair(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = make()
    return model, fuse(copy.deepcopy(model))


def _outcome(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)  # for dropout
    logits = model(images)
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("name", MODELS)
def test_same_results(name: str) -> None:
    plain, fused = (model.double() for model in _pair(MODELS[name]))
    assert fused is not plain
    assert any(isinstance(module, BatchNormAct2d) or "ConvBatch" in type(module).__name__ for module in fused.modules())
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert [key for key, _ in fused.named_parameters()] == [key for key, _ in plain.named_parameters()]
    assert not true_shapes(fused)
    assert stored_in_channels(fused) is None
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, found = _outcome(plain, images), _outcome(fused, images)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7, msg=key)
    fused.load_state_dict(plain.state_dict())
    torch.testing.assert_close(fused.eval()(images), plain.eval()(images))


def test_what_cannot_be_replaced_is_left() -> None:
    plain, fused = _pair(lambda: create_model("torchvision:squeezenet1_1"))
    assert [type(module) for module in fused.modules()] == [type(module) for module in plain.modules()]


def test_statistics_do_not_move_where_they_must_not() -> None:
    fused = _pair(MODELS["torchvision:resnet18"])[1]
    before = {key: value.clone() for key, value in fused.named_buffers()}
    images = torch.randn(4, 3, 32, 32)
    with unmoved_statistics(fused):
        fused(images)
    assert all(torch.equal(value, before[key]) for key, value in fused.named_buffers())
    fused(images)
    assert not any(torch.equal(value, before[key]) for key, value in fused.named_buffers())


def test_asam_and_averaged_weights() -> None:
    """A whole step on the flat buffers moves the weights as with torch's modules; statistics move once."""
    settings = {"arch": "torchvision:resnet18", "sam": "asam", "ema_decay": 0.5, "optimizer": "sgd", "dropout": None}
    plain, fused = (make_step(**settings, backend=backend) for backend in ("torch", "fused"))
    assert any("Residual" in type(module).__name__ for module in fused.model.modules())
    start = plain.flat.master.clone()
    assert torch.equal(fused.flat.master, start)
    for step in (plain, fused):
        step.model.train()
        step.begin(0, 0, [1e-4] * 5, set())
        step.run(BATCH, perturbed=True)
    assert plain.ema is not None
    assert fused.ema is not None
    for found, expected in ((fused.flat.master, plain.flat.master), (fused.ema.weights, plain.ema.weights)):
        assert (found - expected).norm() < 0.02 * (expected - start).norm()
    torch.testing.assert_close(fused.statistics.values, plain.statistics.values, rtol=1e-3, atol=1e-3)
    assert torch.equal(fused.statistics.counts, plain.statistics.counts)
    assert torch.all(fused.statistics.counts == 1)


def test_trains_from_the_command_line(tmp_path: Path) -> None:
    """Two steps; the checkpoint is one of torchvision's model, and a second run is the same."""
    for name in ("one", "two"):
        assert train.main([*TWO_STEPS, "--backend=fused", f"--out={tmp_path / name}"]) == 0
    checkpoints = [load_checkpoint(checkpoint_folders(tmp_path / name / "checkpoints")[0]) for name in ("one", "two")]
    one, two = (checkpoint.tensors["model"] for checkpoint in checkpoints)
    create_model("torchvision:shufflenet_v2_x0_5", num_classes=3).load_state_dict(one)
    assert all(torch.equal(one[key], two[key]) for key in one)
