"""Draws, properties and errors of ``shakedrop``, beyond what its OpSpec generates."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from cifarfast.kernels import ShakeDrop, linear_keep_probability, shakedrop, share_randomness
from cifarfast.kernels.philox import philox_4x32, uniform

LEVELS = list(itertools.product(("batch", "image", "channel", "pixel"), ("batch", "image")))


def _drawn(shape: tuple[int, ...], device: str, p: float, **settings: object) -> tuple[Tensor, Tensor]:
    """The forward and the backward coefficient of every element."""
    branch = torch.ones(shape, device=device, requires_grad=True)
    out = shakedrop(torch.zeros(shape, device=device), branch, p, **settings)
    (gradient,) = torch.autograd.grad(out, branch, torch.ones_like(out))
    return out.detach(), gradient


def _counters(device: str, n: int, seed: int = 7, step: int = 3) -> dict[str, Tensor]:
    counters = {"seed": seed, "step": step}
    return {name: torch.tensor(value, device=device) for name, value in counters.items()}


@pytest.mark.parametrize(("level", "keep_level"), LEVELS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_draws_are_those_of_philox(level: str, keep_level: str, channels_last: bool, implementation: str) -> None:
    n, c, height, width, seed, step, layer, p = 3, 5, 2, 4, -(2**62) - 5, 2**33 + 9, 12, 0.4
    indices = torch.tensor([2**32 - 1, 0, 77])
    pixel = torch.arange(height * width).reshape(1, 1, height, width)
    channel = torch.arange(c).reshape(1, c, 1, 1)
    index = {"batch": torch.zeros(1, 1, 1, 1, dtype=torch.int64)}
    index["image"] = index["channel"] = index["pixel"] = indices.reshape(n, 1, 1, 1)
    block = {"batch": 0, "image": 0, "channel": 1 + channel, "pixel": 1 + pixel * c + channel}[level]
    counter = (step % 2**32, layer * 256 + 6)
    b = uniform(philox_4x32(seed, index[keep_level], *counter, 0)[0]) < p
    _, alpha_bits, beta_bits, _ = philox_4x32(seed, index[level], *counter, block)
    alpha, beta = 2 * uniform(alpha_bits) - 1, uniform(beta_bits)

    branch = torch.ones(n, c, height, width, device=implementation)
    if channels_last:
        branch = branch.contiguous(memory_format=torch.channels_last)
    branch.requires_grad_()
    counters = {**_counters(implementation, n, seed, step), "indices": indices.to(implementation)}
    out = shakedrop(torch.zeros_like(branch), branch, p, layer=layer, level=level, keep_level=keep_level, **counters)
    (gradient,) = torch.autograd.grad(out, branch, torch.ones_like(out))
    assert torch.equal(out.cpu(), torch.where(b, 1.0, alpha).expand_as(out))
    assert torch.equal(gradient.cpu(), torch.where(b, 1.0, beta).expand_as(out))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_mean_over_draws_is_the_evaluation(p: float, backend_name: str, implementation: str) -> None:
    n = 100 if (backend_name, implementation) == ("triton", "cpu") else 40_000
    forward, backward = _drawn((n, 1), implementation, p, **_counters(implementation, n))
    one = torch.ones(1, 1, device=implementation)
    expected = shakedrop(torch.zeros_like(one), one, p, training=False)
    # E[α²] = E[β²] = 1/3
    second = p + (1 - p) / 3
    for values, mean in ((forward, expected.item()), (backward, p + (1 - p) / 2)):
        deviation = ((second - mean**2) / n) ** 0.5
        assert abs(values.double().mean().item() - mean) <= 5 * deviation
    assert forward.min() >= -1
    assert backward.min() >= 0
    assert max(forward.max(), backward.max()) <= 1


def test_layout_of_the_result(implementation: str) -> None:
    branch = torch.ones(2, 3, 4, 5, device=implementation)
    last = branch.contiguous(memory_format=torch.channels_last)
    assert shakedrop(last, branch, 0.5).is_contiguous()
    assert shakedrop(branch, last, 0.5).is_contiguous(memory_format=torch.channels_last)


def test_a_step_changed_before_the_backward_raises(implementation: str) -> None:
    counters = _counters(implementation, 4)
    branch = torch.ones(4, 3, device=implementation, requires_grad=True)
    out = shakedrop(torch.zeros_like(branch), branch, 0.2, **counters)
    counters["step"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_linear_decay() -> None:
    assert [linear_keep_probability(layer, 4) for layer in (1, 2, 3, 4)] == [0.875, 0.75, 0.625, 0.5]
    assert linear_keep_probability(54, 54, p_max=1.0) == 0.0
    with pytest.raises(ValueError, match=r"^layer "):
        linear_keep_probability(0, 4)
    with pytest.raises(ValueError, match=r"^p_max "):
        linear_keep_probability(1, 4, p_max=1.5)


class Residual(nn.Module):
    """Two residual sums in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ShakeDrop(0.25), ShakeDrop(0.25)

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.stack([self.first(zero, x), self.second(zero, x)])


def test_modules_share_randomness() -> None:
    model = Residual()
    assert not model.state_dict()
    assert "keep_probability=0.25" in repr(model)
    seed, step, indices = torch.tensor(3), torch.tensor(0), torch.arange(6)
    assert share_randomness(model, seed, step, indices) == 2
    x = torch.ones(6, 2)
    first, second = model(x)
    assert not torch.equal(first, second)
    assert torch.equal(model(x)[0], first)
    step.add_(1)
    assert not torch.equal(model(x)[0], first)
    assert torch.equal(model.eval()(x)[1], 0.25 * x)


@pytest.mark.parametrize("shared", [False, True])
def test_module_compiles_fullgraph(shared: bool) -> None:
    torch.compiler.reset()
    model = Residual()
    step = torch.tensor(0)
    if shared:
        share_randomness(model, torch.tensor(3), step)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.ones(6, 2, requires_grad=True)
    for _ in range(2):
        out = compiled(x)
        (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
        if shared:
            eager = model(x)
            assert torch.equal(out, eager)
            assert torch.equal(gradient, torch.autograd.grad(eager, x, torch.ones_like(eager))[0])
            step.add_(1)


def test_module_mistakes() -> None:
    with pytest.raises(ValueError, match=r"^keep_probability "):
        ShakeDrop(-0.1)
    with pytest.raises(ValueError, match=r"^level "):
        ShakeDrop(0.5, level="row")
