"""Optimizers, segments, L2 and the moving average against torch and plain formulas."""

import copy

import pytest
import torch
from torch import nn

from cifarfast.errors import UserError
from cifarfast.optim import (
    ExponentialMovingAverage,
    add_l2_gradients,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    segment_table,
)
from cifarfast.recipe import Recipe

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).to(
        memory_format=torch.channels_last
    )


def segments(model: nn.Module, **settings: object) -> list:
    return segment_table(model, **{"weight_decay": 0.1, "decay_norm_and_bias": True, "l2": {}} | settings)  # type: ignore[arg-type]


def backward(model: nn.Module, step: int) -> None:
    model.zero_grad()
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    model(images).square().mean().backward()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs(name: str) -> None:
    model, reference = network(), network()
    recipe = Recipe(optimizer=name, lr=0.05).resolved("cpu")  # type: ignore[arg-type]
    optimizer = build_optimizer(model, segments(model, weight_decay=recipe.weight_decay), recipe)
    theirs = OPTIMIZERS[name](reference.parameters())
    pairs = list(zip(model.parameters(), reference.parameters(), strict=True))
    for step in range(20):
        backward(model, step)
        for parameter, twin in pairs:
            assert parameter.grad is not None
            twin.grad = parameter.grad.clone()
        optimizer.step()
        theirs.step()
    for parameter, twin in pairs:
        torch.testing.assert_close(parameter, twin, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_there_and_back(name: str) -> None:
    recipe = Recipe(optimizer=name, lr=0.05).resolved("cpu")  # type: ignore[arg-type]
    model = network()
    optimizer = build_optimizer(model, segments(model), recipe)
    for step in range(3):
        backward(model, step)
        optimizer.step()
    again = copy.deepcopy(model)
    other = build_optimizer(again, segments(again), recipe)
    load_optimizer_tensors(other, again, {k: v.clone() for k, v in optimizer_tensors(optimizer, model).items()})
    for step in range(3, 6):
        for net, update in ((model, optimizer), (again, other)):
            backward(net, step)
            update.step()
    for ours, expected in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_segments_are_the_flat_order() -> None:
    model = network()
    table = segments(model, decay_norm_and_bias=False, l2={"0": 0.5})
    assert [s.name for s in table] == [name for name, _ in model.named_parameters()]
    assert [s.offset for s in table] == [0, 108, 112, 116, 120, 840]
    assert [s.weight_decay for s in table] == [0.1, 0, 0, 0, 0.1, 0]
    assert [s.l2 for s in table] == [0.5, 0, 0, 0, 0, 0]
    assert sum(s.length for s in table) == sum(p.numel() for p in model.parameters())


def test_tied_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    assert [s.name for s in segments(model)] == ["0.weight", "0.bias"]


def test_l2_is_the_gradient_of_the_penalty() -> None:
    model, reference = network(), network()
    backward(model, 0)
    add_l2_gradients(dict(model.named_parameters()), segments(model, l2={"0": 0.3, "4": 0.7}))
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    penalty = 0.3 * reference[0].weight.square().sum() + 0.7 * reference[4].weight.square().sum()
    (reference(images).square().mean() + penalty).backward()
    for ours, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_l2_of_a_layer_that_is_not_there() -> None:
    with pytest.raises(UserError, match="l2 names layer 'con1'"):
        segments(network(), l2={"con1": 1.0})


def test_nothing_to_train() -> None:
    model = network().requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameters"):
        build_optimizer(model, segments(model), Recipe().resolved("cpu"))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_moving_average(decay: float) -> None:
    model = network()
    ema = ExponentialMovingAverage(model, decay)
    expected = {k: v.double().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(10):
        backward(model, step)
        optimizer.step()
        ema.update()
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in ema.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 10
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())
