"""Statistics of the weights under each initialisation."""

import math

import pytest
import torch
from torch import nn

from cifarfast.errors import UserError
from cifarfast.models import create_model, initialise


def layers(init: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    model = create_model("cnn_bn", init=init)
    return dict(model.named_children())


# layer, fan-in, fan-out
LAYERS = [("conv2", 32 * 9, 64 * 9), ("conv3", 64 * 9, 64 * 9), ("fc1", 4096, 512)]


@pytest.mark.parametrize(("name", "fan_in", "fan_out"), LAYERS)
def test_kaiming_normal(name: str, fan_in: int, fan_out: int) -> None:
    weight = layers("kaiming_normal")[name].weight
    assert isinstance(weight, torch.Tensor)
    std = math.sqrt(2 / fan_in)
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert weight.mean().abs() < 0.03 * std
    within_one_std = (weight.abs() < std).float().mean().item()
    assert within_one_std == pytest.approx(0.6827, abs=0.01)


@pytest.mark.parametrize(("name", "fan_in", "fan_out"), LAYERS)
def test_xavier(name: str, fan_in: int, fan_out: int) -> None:
    weight = layers("xavier")[name].weight
    assert isinstance(weight, torch.Tensor)
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("init", ["kaiming_normal", "xavier"])
def test_biases_and_batch_norm(init: str) -> None:
    model = create_model("cnn_bn")
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    initialise(model, init)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert torch.all(module.weight == 1), name
            assert torch.all(module.bias == 0), name
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert module.bias is not None
            assert torch.all(module.bias == 0), name
            assert not torch.any(module.weight == 7), name


def test_default_leaves_the_weights() -> None:
    model = create_model("lenet")
    before = [p.detach().clone() for p in model.parameters()]
    initialise(model, "default")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_depthwise_convolution_uses_its_own_fan_in() -> None:
    torch.manual_seed(0)
    model = create_model("mobilenet_v2", init="kaiming_normal")
    depthwise = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    weights = torch.cat([weight.detach().flatten() for weight in depthwise])
    assert weights.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.02)


def test_unknown_initialisation() -> None:
    with pytest.raises(UserError, match="unknown initialisation 'xavir', did you mean 'xavier'"):
        initialise(nn.Linear(2, 2), "xavir")
