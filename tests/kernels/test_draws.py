"""What the draws of dropout and ShakeDrop have in common: what they depend on, and what they do not."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifarfast.kernels import dropout, shakedrop
from cifarfast.kernels.testing.spec import OpSpec

SETTINGS = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
pytestmark = pytest.mark.ops("dropout", "shakedrop")


def _drawn(spec: OpSpec, shape: tuple[int, ...], device: str, **options: Any) -> tuple[Tensor, Tensor]:
    """What multiplies each element in forward and in backward."""
    x = torch.ones(shape, device=device, requires_grad=True)
    out = dropout(x, 0.5, **options) if spec.name == "dropout" else shakedrop(torch.zeros_like(x), x, 0.0, **options)
    return out.detach(), torch.autograd.grad(out, x, torch.ones_like(out))[0]


def _counters(device: str, seed: int = 7, step: int = 3) -> dict[str, Tensor]:
    return {"seed": torch.tensor(seed, device=device), "step": torch.tensor(step, device=device)}


@SETTINGS
@given(n=st.integers(2, 6), seed=st.integers(-(2**63), 2**63 - 1), level=st.sampled_from(["image", "pixel"]))
def test_a_draw_depends_on_its_sample_only(n: int, seed: int, level: str, spec: OpSpec, implementation: str) -> None:
    options = {**_counters(implementation, seed), **({"level": level} if spec.name == "shakedrop" else {})}
    indices = torch.arange(100, 100 + n, device=implementation)
    whole, flipped = (_drawn(spec, (n, 9, 3), implementation, indices=i, **options) for i in (indices, indices.flip(0)))
    last = _drawn(spec, (1, 9, 3), implementation, indices=indices[-1:], **options)
    for of_whole, of_flipped, of_last in zip(whole, flipped, last, strict=True):
        assert torch.equal(of_whole, of_flipped.flip(0))
        assert torch.equal(of_whole[-1:], of_last)


def test_steps_layers_and_seeds_differ(spec: OpSpec, implementation: str) -> None:
    """Two draws of dropout agree by chance in half of the elements, two of ShakeDrop in none."""
    sources = ((1, 0, 0), (2, 0, 0), (1 + 2**32, 0, 0), (1, 1, 0), (1, 0, 1), (1, 2, 3))
    draws = [
        _drawn(spec, (8, 64), implementation, layer=layer, **_counters(implementation, seed, step))
        for seed, step, layer in sources
    ]
    expected, allowed = (0.5, 2.5 / 512**0.5) if spec.name == "dropout" else (0.0, 0.0)
    for i, first in enumerate(draws):
        for second in draws[:i]:
            for a, b in zip(first, second, strict=True):
                assert abs((a == b).double().mean().item() - expected) <= allowed


def test_without_counters_torchs_generator_decides(spec: OpSpec, implementation: str) -> None:
    torch.manual_seed(5)
    first, second = (_drawn(spec, (8, 16), implementation)[0] for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(first, _drawn(spec, (8, 16), implementation)[0])
    assert not torch.equal(first, second)


def test_gradient_of_the_gradient(spec: OpSpec, implementation: str) -> None:
    """A gradient is linear in the one that it is given."""
    counters = _counters(implementation)
    _, expected = _drawn(spec, (4, 9), implementation, **counters)
    x, cotangent = (torch.ones(4, 9, device=implementation, requires_grad=True) for _ in range(2))
    out = dropout(x, 0.5, **counters) if spec.name == "dropout" else shakedrop(torch.zeros_like(x), x, 0.0, **counters)
    (gradient,) = torch.autograd.grad(out, x, cotangent, create_graph=True)
    gradient.sum().backward()
    assert torch.equal(cotangent.grad, expected)
