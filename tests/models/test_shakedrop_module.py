"""ShakeDrop against its formula, and its expectation."""

import pytest
import torch

from cifarfast.models import create_model
from cifarfast.models.shakedrop import ShakeDrop


@pytest.mark.parametrize("shape", [(64, 3, 4, 5), (64, 7), (1, 2, 3, 3)])
def test_forward_and_backward_formula(shape: tuple[int, ...]) -> None:
    survival = 0.6
    x = torch.randn(shape, requires_grad=True)
    grad = torch.randn(shape)
    torch.manual_seed(3)
    y = ShakeDrop(survival)(x)
    y.backward(grad)

    torch.manual_seed(3)
    draws = torch.rand(3, shape[0], *[1] * (len(shape) - 1))
    b = (draws[0] < survival).float()
    alpha, beta = draws[1] * 2 - 1, draws[2]
    torch.testing.assert_close(y, (b + alpha - b * alpha) * x)
    torch.testing.assert_close(x.grad, (b + beta - b * beta) * grad)


def test_distribution_of_the_scales() -> None:
    torch.manual_seed(0)
    draws, survival = 40_000, 0.7
    x = torch.ones(draws, 1, requires_grad=True)
    y = ShakeDrop(survival)(x)
    y.sum().backward()
    assert x.grad is not None
    dropped = y.detach() != 1
    assert dropped.float().mean().item() == pytest.approx(1 - survival, abs=0.01)
    alpha, beta = y.detach()[dropped], x.grad[dropped]
    assert -1 <= alpha.min() < -0.99
    assert 0.99 < alpha.max() <= 1
    assert 0 <= beta.min() < 0.01
    assert 0.99 < beta.max() <= 1
    assert torch.corrcoef(torch.stack([alpha, beta]))[0, 1].abs() < 0.03
    assert torch.all(x.grad[~dropped] == 1)


def test_evaluation_is_the_expectation() -> None:
    torch.manual_seed(0)
    layer = ShakeDrop(0.55)
    x = torch.randn(1, 4)
    mean = layer(x.expand(100_000, 4)).mean(0)
    expected = layer.eval()(x)[0]
    torch.testing.assert_close(expected, 0.55 * x[0])
    torch.testing.assert_close(mean, expected, atol=0.02, rtol=0)


def test_decay_is_linear_over_depth() -> None:
    with torch.device("meta"):
        model = create_model("pyramidnet110_a150_shakedrop")
    survivals = [module.survival for module in model.modules() if isinstance(module, ShakeDrop)]
    assert survivals == pytest.approx([1 - block / 54 * 0.5 for block in range(1, 55)])
    assert "survival=0.5" in repr(model)


def test_dtype_is_kept() -> None:
    x = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    y = ShakeDrop(0.5)(x)
    y.sum().backward()
    assert y.dtype is torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype is torch.bfloat16
