"""The flat optimizers as the trainer uses them, against torch.optim."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cifarfast.errors import UserError
from cifarfast.optim import FlatOptimizer, FlatParameters, flat_parameters
from cifarfast.optim.muon import orthogonalise
from cifarfast.recipes.recipe import Recipe

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


def network(inner: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    # no bias before the batch norm: its gradient is rounding, which some optimizers blow up
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, inner, 3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(inner * 16, 5)).to(memory_format=torch.channels_last)


def flat_with(model: nn.Module, recipe: Recipe) -> tuple[FlatParameters, FlatOptimizer]:
    flat = flat_parameters(model, recipe)
    return flat, FlatOptimizer(flat, recipe)


def loss_of(model: nn.Module, step: int) -> Tensor:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    return model(images).square().mean()


def take_gradient(model: nn.Module, flat: FlatParameters, step: int) -> tuple[Tensor, ...]:
    with flat.computing():
        gradients = torch.autograd.grad(loss_of(model, step), list(flat.leaves.values()))
    flat.gather(gradients)
    return gradients


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs(name: str) -> None:
    model, reference = network(), network()
    flat, optimizer = flat_with(model, Recipe(optimizer=name, lr=0.05).resolved("cpu"))  # type: ignore[arg-type]
    twins = dict(reference.named_parameters())
    theirs = OPTIMIZERS[name]([twins[s.name] for s in flat.segments])
    for step in range(20):
        gradients = take_gradient(model, flat, step)
        for segment, gradient in zip(flat.segments, gradients, strict=True):
            twins[segment.name].grad = gradient.clone()
        optimizer.step()
        theirs.step()
    ours, expected = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (model, reference))
    assert (ours - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("name", [*OPTIMIZERS, "muon"])
def test_state_goes_there_and_back(name: str) -> None:
    recipe = Recipe(optimizer=name, lr=0.05, lookahead_every=2).resolved("cpu")  # type: ignore[arg-type]
    model = network()
    flat, optimizer = flat_with(model, recipe)
    for step in range(3):
        take_gradient(model, flat, step)
        optimizer.step()
    again = network()
    other_flat, other = flat_with(again, recipe)
    again.load_state_dict(model.state_dict())
    other.load_tensors({name: tensor.clone() for name, tensor in optimizer.tensors().items()})
    for step in range(3, 6):
        for net, parameters, update in ((model, flat, optimizer), (again, other_flat, other)):
            take_gradient(net, parameters, step)
            update.step()
    assert torch.equal(flat.master, other_flat.master)


def test_state_of_another_optimizer_or_model_is_refused() -> None:
    optimizer = flat_with(network(), Recipe(optimizer="sgd").resolved("cpu"))[1]
    tensors = optimizer.tensors()
    assert tensors["0.weight/momentum_buffer"].shape == (4, 3, 3, 3)
    with pytest.raises(KeyError, match=r"0\.weight/exp_avg"):
        flat_with(network(), Recipe(optimizer="adam").resolved("cpu"))[1].load_tensors(tensors)
    with pytest.raises(RuntimeError, match=r"0\.weight/momentum_buffer has shape \[2\]"):
        optimizer.load_tensors(tensors | {"0.weight/momentum_buffer": torch.zeros(2)})


def test_l2_is_the_gradient_of_the_penalty() -> None:
    model, reference = network(), network()
    recipe = Recipe(lr=0.1, momentum=0, weight_decay=0, l2={"0": 0.3, "5": 0.7}).resolved("cpu")
    flat, optimizer = flat_with(model, recipe)
    take_gradient(model, flat, 0)
    optimizer.step()
    penalty = 0.3 * reference[0].weight.square().sum() + 0.7 * reference[5].weight.square().sum()
    (loss_of(reference, 0) + penalty).backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    for ours, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_clipping_is_torchs(max_norm: float) -> None:
    model, reference = network(), network()
    recipe = Recipe(lr=1.0, momentum=0, weight_decay=0, clip_norm=max_norm).resolved("cpu")
    flat, optimizer = flat_with(model, recipe)
    take_gradient(model, flat, 0)
    norm = optimizer.clip()
    optimizer.step()
    loss_of(reference, 0).backward()
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(reference.parameters(), max_norm))
    torch.optim.SGD(reference.parameters(), lr=1.0).step()
    for ours, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_lookahead_against_plain_steps() -> None:
    model, reference = network(), network()
    settings = {"momentum": 0, "weight_decay": 0, "lookahead_every": 3, "lookahead_alpha": 0.4, "ema_decay": 0.9}
    recipe = Recipe(lr=0.1, **settings).resolved("cpu")  # type: ignore[arg-type]
    flat = flat_parameters(model, recipe)
    ema = flat.master.clone()
    optimizer = FlatOptimizer(flat, recipe, ema=ema)
    averages = [p.detach().clone() for p in reference.parameters()]
    theirs = torch.optim.SGD(reference.parameters(), lr=0.1)
    slow = [p.detach().clone() for p in reference.parameters()]
    for step in range(8):
        take_gradient(model, flat, step)
        optimizer.step()
        theirs.zero_grad()
        loss_of(reference, step).backward()
        theirs.step()
        if step % 3 == 2:
            for p, kept in zip(reference.parameters(), slow, strict=True):
                kept.lerp_(p.detach(), 0.4)
                p.data.copy_(kept)
        for p, average in zip(reference.parameters(), averages, strict=True):
            average.lerp_(p.detach(), 0.1)
    for (name, ours), expected, average in zip(model.named_parameters(), reference.parameters(), averages, strict=True):
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(flat.views(ema)[name], average)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 6, 6)])
def test_orthogonalise(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices, 8)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    singular_values = torch.linalg.svdvals(result)
    assert (singular_values > 0.6).all()
    assert (singular_values < 1.25).all()
    # the same singular vectors: in their basis the result is diagonal
    inside = u.mT @ result @ v.mT
    assert (inside - torch.diag_embed(torch.diagonal(inside, dim1=1, dim2=2))).abs().max() < 1e-4
    assert torch.equal(orthogonalise(torch.zeros(1, 3, 4), 5), torch.zeros(1, 3, 4))


@pytest.mark.parametrize("rows", [6, 50])
def test_muon_against_plain_steps(rows: int) -> None:
    model, reference = network(rows), network(rows)
    recipe = Recipe(optimizer="muon", lr=0.02, muon_rest_lr=0.1, momentum=0.9, weight_decay=0.01).resolved("cpu")
    flat, optimizer = flat_with(model, recipe)
    twins = dict(reference.named_parameters())
    inner = twins.pop("3.weight")  # the only weight that is neither the first nor the last
    sgd = torch.optim.SGD(twins.values(), lr=0.1, momentum=0.9, nesterov=True)
    buffer = torch.zeros_like(inner)
    for step in range(5):
        take_gradient(model, flat, step)
        optimizer.step()
        reference.zero_grad()
        loss_of(reference, step).backward()
        with torch.no_grad():
            for p in twins.values():
                p.sub_(0.1 * 0.01 * p)
            sgd.step()
            buffer.lerp_(inner.grad, 0.1)
            direction = inner.grad.lerp(buffer, 0.9).reshape(1, rows, 36)
            update = max(1.0, rows / 36) ** 0.5 * orthogonalise(direction, 5).view_as(inner)
            inner.sub_(0.02 * (update + 0.01 * inner))
    for ours, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_muon_of_a_weight_that_lies_transposed_in_memory() -> None:
    models = [nn.Sequential(*(nn.Linear(*n, bias=False) for n in ((3, 6), (6, 4), (4, 2)))) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1][1].weight = nn.Parameter(models[0][1].weight.detach().t().contiguous().t())
    for model in models:
        flat, optimizer = flat_with(model, Recipe(optimizer="muon").resolved("cpu"))
        gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        flat.gather([gradient if name == "1.weight" else None for name in flat.leaves])
        optimizer.step()
    torch.testing.assert_close(models[0][1].weight, models[1][1].weight)


def test_muon_refuses_single_penalties() -> None:
    with pytest.raises(UserError, match="l2 cannot be used with muon"):
        flat_parameters(network(), Recipe(optimizer="muon", l2={"0": 1.0}).resolved("cpu"))


def test_a_skipped_step_changes_nothing() -> None:
    for name in [*OPTIMIZERS, "muon"]:
        model = network()
        flat, optimizer = flat_with(model, Recipe(optimizer=name, lookahead_every=1).resolved("cpu"))  # type: ignore[arg-type]
        take_gradient(model, flat, 0)
        optimizer.step()
        before = copy.deepcopy(model.state_dict()), {k: v.clone() for k, v in optimizer.states.items()}
        flat.grad.fill_(float("nan"))
        optimizer.skip(torch.tensor(True))
        optimizer.step()
        assert all(torch.equal(v, before[0][k]) for k, v in model.state_dict().items()), name
        assert all(torch.equal(v, before[1][k]) for k, v in optimizer.states.items()), name


def test_a_norm_that_overflows_is_not_finite_without_clipping_too() -> None:
    flat, optimizer = flat_with(network(), Recipe(optimizer="sgd").resolved("cpu"))
    flat.grad.fill_(3.0)
    assert optimizer.clip().item() == pytest.approx(3 * len(flat.grad) ** 0.5)
    flat.grad[:2] = torch.tensor([3e19, -3e19])  # finite, and so is their sum
    assert optimizer.clip().isinf()
