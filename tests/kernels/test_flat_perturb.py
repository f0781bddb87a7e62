"""SAM's and ASAM's perturbed weights against a plain loop over the parameters in fp64, and whole ASAM steps."""

from collections.abc import Sequence

import pytest
import torch
from flat_buffers import LENGTHS, draw, pack, relative_error, unpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifarfast.kernels import flat_asam_norm, flat_grad_norm, flat_perturb, flat_scalars, flat_sgd_step, flat_table

SETTINGS = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def perturbed_plainly(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], *, rho: float, adaptive: bool, eta: float = 0.0
) -> list[Tensor]:
    """w + e parameter by parameter, in the weights' dtype; ASAM: e = rho (|w| + eta)² g / ‖(|w| + eta) g‖."""
    scales = [w.abs() + eta if adaptive else torch.ones_like(w) for w in weights]
    products = [t * g for t, g in zip(scales, gradients, strict=True)]
    norm = torch.stack([product.square().sum() for product in products]).sum().sqrt()
    return [w + rho * t * product / norm for w, t, product in zip(weights, scales, products, strict=True)]


@SETTINGS
@given(
    lengths=st.lists(st.integers(1, 1300), min_size=1, max_size=4),
    adaptive=st.booleans(),
    eta=st.sampled_from([0.0, 0.01]),
    rho=st.sampled_from([0.0, 0.05, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 100),
)
def test_equals_a_plain_loop(
    lengths: list[int], adaptive: bool, eta: float, rho: float, dtype: torch.dtype, seed: int, implementation: str
) -> None:
    table = flat_table(lengths, device=implementation)
    generator = torch.Generator().manual_seed(seed)
    values, gradients = draw(generator, lengths), draw(generator, lengths)
    master, grad = pack(values, table, implementation), pack(gradients, table, implementation)
    before = master.clone()
    norm = flat_asam_norm(master, grad, table, eta=eta) if adaptive else flat_grad_norm(grad, table)
    copy = torch.full_like(master, torch.nan, dtype=dtype)
    flat_perturb(copy, master, grad, norm, table, rho=rho, adaptive=adaptive, eta=eta)
    truth = perturbed_plainly(
        [v.double() for v in values], [g.double() for g in gradients], rho=rho, adaptive=adaptive, eta=eta
    )
    assert torch.equal(master, before)
    assert relative_error(unpack(copy, table), truth) < 2 * torch.finfo(dtype).eps
    assert torch.equal(copy[pack([torch.ones(n) for n in lengths], table) == 0].unique().cpu(), copy.new_zeros(1).cpu()[
        : int(table.length > sum(lengths))
    ])  # fmt: skip


@pytest.mark.parametrize("adaptive", [False, True])
def test_loss_scale_cancels(adaptive: bool, implementation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    master, grad = (torch.randn(1500, generator=generator).to(implementation) for _ in range(2))
    copies = []
    for scale in (1.0, 65536.0):
        scaled = grad * scale
        norm = flat_asam_norm(master, scaled) if adaptive else flat_grad_norm(scaled)
        copies.append(torch.full_like(master, torch.nan))
        flat_perturb(copies[-1], master, scaled, norm, rho=0.5, adaptive=adaptive)
    torch.testing.assert_close(*copies, rtol=2e-7, atol=2e-7)


def test_frozen_segments_and_zero_gradients_are_not_perturbed(implementation: str) -> None:
    table = flat_table(LENGTHS, lr_scale=[0.0, 1.0, 1.0], device=implementation)
    master = pack(draw(torch.Generator().manual_seed(0)), table, implementation)
    copy = torch.full_like(master, torch.nan)
    grad = torch.full_like(master, torch.nan)
    grad[table.offsets[1] :] = 0
    flat_perturb(copy, master, grad, flat_grad_norm(grad, table), table, rho=1.0)
    assert torch.equal(copy, master)


def _gradient(w: Tensor, target: Tensor) -> Tensor:
    """Of a convex loss, so that rounding errors do not grow; 0 where both are 0, as in padding."""
    return (w - target) + 0.5 * w.sin()


def test_asam_trajectory_equals_a_plain_loop(backend_name: str, implementation: str) -> None:
    """ASAM with Nesterov momentum and EMA: two gradients a step, weights never cloned or restored."""
    table = flat_table(LENGTHS, device=implementation)
    generator = torch.Generator().manual_seed(0)
    values, targets = draw(generator), [t.double() for t in draw(generator)]
    target = pack([t.float() for t in targets], table, implementation)
    master, copy = pack(values, table, implementation), pack(values, table, implementation)
    buffer, ema = torch.zeros_like(master), master.clone()
    scalars = flat_scalars(lr=0.02, ema_decay=0.9, device=implementation)
    weights = [v.double() for v in values]
    momenta, averages = [torch.zeros_like(w) for w in weights], [w.clone() for w in weights]
    for _ in range(50 if backend_name == "torch" or implementation == "cuda" else 8):
        grad = _gradient(copy, target)
        norm = flat_asam_norm(master, grad, table)
        flat_perturb(copy, master, grad, norm, table, rho=2.0, adaptive=True)
        grad = _gradient(copy, target)
        flat_sgd_step(master, grad, buffer, table, scalars, ema, copy, momentum=0.9, nesterov=True)

        plain = [_gradient(w, t) for w, t in zip(weights, targets, strict=True)]
        there = perturbed_plainly(weights, plain, rho=2.0, adaptive=True)
        for i, g in enumerate(_gradient(w, t) for w, t in zip(there, targets, strict=True)):
            momenta[i] = 0.9 * momenta[i] + g
            weights[i] = weights[i] - 0.02 * (g + 0.9 * momenta[i])
            averages[i] = 0.9 * averages[i] + 0.1 * weights[i]
        assert torch.equal(copy, master)
    assert relative_error(unpack(master, table), weights) < 1e-6
    assert relative_error(unpack(ema, table), averages) < 1e-6
