"""Channels stored in multiples of 8: what is added stays zero, and nobody outside sees it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused_models import at_true_shape, create_pair, make_images, padding
from torch import Tensor, nn

from cifarfast.kernels import share_randomness
from cifarfast.models import create_model, fuse, model_info, true_shapes
from cifarfast.models.fused.pyramidnet import FusedTail

# widths 18, 20, 22, … and four times 16, 16, 17, …
PYRAMIDS = ["pyramidnet14_a13", "pyramidnet14_a13_shakedrop", "pyramidnet119_a31_shakedrop"]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, 1e-2),
    "adamax": lambda p: torch.optim.Adamax(p, 1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
}
STEPS = 3


def record_padded_channels(model: nn.Module) -> list[Tensor]:
    """A list to which each forward pass adds the padded channels that batch norms get and give, those of tails too."""
    behind: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], out: Any) -> None:
        for tensor in (inputs[0], out[0] if isinstance(module, FusedTail) else out):
            behind.append(tensor[:, module.num_features :].detach().flatten())

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(keep)
    return behind


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    share_randomness(model, torch.tensor(1), torch.tensor(step))
    optimizer.zero_grad()
    F.cross_entropy(model(make_images(8)), torch.arange(4)).backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("name", PYRAMIDS[:2])
def test_padding_stays_zero(name: str, optimizer_name: str) -> None:
    model = create_pair(name)[1]
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    behind = record_padded_channels(model)
    parameters = dict(model.named_parameters())
    for step in range(STEPS):
        train_step(model, optimizer, step)
        gradients = {key: p.grad for key, p in parameters.items() if p.grad is not None}
        assert torch.all(padding(model, gradients) == 0)
        assert torch.all(padding(model, {**parameters, **dict(model.named_buffers())}) == 0)
    assert torch.cat(behind).numel() > 10_000
    assert torch.all(torch.cat(behind) == 0)


def test_padding_of_bottlenecks_under_autocast_stays_zero() -> None:
    model = create_pair(PYRAMIDS[2])[1]
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    behind = record_padded_channels(model)
    for step in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            train_step(model, optimizer, step)
    model.eval()(make_images(8))
    assert torch.all(torch.cat(behind) == 0)
    assert torch.all(padding(model, {**dict(model.named_parameters()), **dict(model.named_buffers())}) == 0)


def test_the_gradient_that_is_held_at_zero_would_not_be() -> None:
    """A later block's new channels are padding in the one before: their gradient comes back through the shortcut."""
    model = create_pair("pyramidnet14_a13")[1]
    for module in model.modules():
        if isinstance(module, FusedTail):
            module.true_channels = len(module.bias)
    F.cross_entropy(model(make_images(8)), torch.arange(4)).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert torch.any(padding(model, gradients) != 0)


@pytest.mark.parametrize("name", ["wrn10_1", "cnn_bn", "mobilenet_v2", *PYRAMIDS])
def test_state_dict_is_that_of_the_plain_model(name: str) -> None:
    plain, fused = create_pair(name)
    expected = {key: value.clone() for key, value in plain.state_dict().items()}
    assert_same_state(fused, expected)
    assert [key for key, _ in fused.named_parameters()] == [key for key, _ in plain.named_parameters()]

    other = fuse(create_model(name, image_size=8))
    other.load_state_dict(expected)
    assert_same_state(other, expected)
    assert torch.all(padding(other, {**dict(other.named_parameters()), **dict(other.named_buffers())}) == 0)

    back = create_model(name, image_size=8)
    back.load_state_dict(other.state_dict())
    assert_same_state(back, expected)

    other.load_state_dict(fused.state_dict(), assign=True)
    assert_same_state(other, expected)
    assert {key: p.shape for key, p in other.named_parameters()} == {k: p.shape for k, p in fused.named_parameters()}


def assert_same_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].shape == value.shape, key
        assert torch.equal(state[key], value), key


def test_state_dict_shows_what_training_changes() -> None:
    model = create_pair("pyramidnet14_a13_shakedrop")[1]
    state = model.state_dict()
    train_step(model, OPTIMIZERS["sgd"](model.parameters()), 0)
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key


@pytest.mark.parametrize("shape", ["stored", "other"])
def test_loading_another_width_is_an_error(shape: str) -> None:
    model = fuse(create_model("pyramidnet14_a13"))
    state = model.state_dict()
    key = "groups.0.0.branch.4.bias"
    before = state[key].clone()
    state[key] = torch.ones(model.get_parameter(key).shape if shape == "stored" else (7,))
    with pytest.raises(
        RuntimeError, match=r"size mismatch for groups\.0\.0\.branch\.4\.bias: .* torch\.Size\(\[18\]\)"
    ):
        model.load_state_dict(state)
    assert torch.equal(model.state_dict()[key], before)
    del state[key]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"groups\.0\.0\.branch\.4\.bias\""):
        model.load_state_dict(state)


@pytest.mark.parametrize("name", ["wrn16_8", "resnet18", *PYRAMIDS])
def test_true_shapes_count_what_the_plain_model_has(name: str) -> None:
    with torch.device("meta"):
        plain = create_model(name)
        fused = fuse(create_model(name))
    shapes, wide = true_shapes(fused), 0
    expected = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    for key, tensor in [*fused.named_parameters(), *fused.named_buffers()]:
        if key in expected:
            assert shapes.get(key, tensor.shape) == expected[key].shape
            assert tensor.dim() == 0 or tensor.shape[0] % 8 == 0 or key.startswith("fc.")
            wide += tensor.shape != expected[key].shape
    assert wide == len(shapes) > 0
    count = sum(shapes.get(key, p.shape).numel() for key, p in fused.named_parameters())
    assert count == model_info(name).parameters


def test_deep_copy_is_apart() -> None:
    model = create_pair("pyramidnet14_a13_shakedrop")[1]
    twin = copy.deepcopy(model)
    assert true_shapes(twin) == true_shapes(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train_step(twin, OPTIMIZERS["sgd"](twin.parameters()), 0)
    assert_same_state(model, before)
    twin.load_state_dict(before)
    images = make_images(8)
    assert torch.equal(twin.eval()(images), model.eval()(images))


def test_views_into_one_buffer() -> None:
    """Parameters re-homed into a flat buffer, as the flat optimizers want them, channels_last strides included."""
    model = create_pair("pyramidnet14_a13")[1].to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    flat = torch.zeros(sum(p.numel() for p in model.parameters()))
    offset = 0
    for parameter in model.parameters():
        view = flat[offset : offset + parameter.numel()].as_strided(parameter.shape, parameter.stride(), offset)
        parameter.data = view.copy_(parameter.data)
        offset += parameter.numel()
    state: dict[str, Any] = {key: torch.randn(value.shape) for key, value in model.state_dict().items()}
    state |= {key: value for key, value in model.state_dict().items() if "running" in key or "num_batches" in key}
    for each in (model, twin):
        each.load_state_dict(state)
    images = make_images(8)
    assert torch.equal(model(images), twin(images))
    for key, parameter in model.named_parameters():
        assert parameter.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        assert torch.equal(at_true_shape(model, key, parameter), state[key])


def test_frozen_parameters_stay_frozen() -> None:
    model = create_model("pyramidnet14_a13")
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.dim() == 1)
    fuse(model)
    assert all(parameter.requires_grad == (parameter.dim() == 1) for parameter in model.parameters())
    F.cross_entropy(model(make_images(8)), torch.arange(4)).backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
