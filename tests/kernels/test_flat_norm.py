"""Norms over flat buffers and clipping against torch."""

import pytest
import torch
from flat_buffers import LENGTHS, draw, pack, relative_error, unpack

from cifarfast.kernels import (
    FlatScalar,
    flat_asam_norm,
    flat_clip,
    flat_grad_norm,
    flat_scalars,
    flat_sgd_step,
    flat_table,
)


def test_large_buffer_is_accurate(backend_name: str, implementation: str) -> None:
    n = 3_000_001 if backend_name == "torch" or implementation == "cuda" else 30_001
    grad = torch.randn(n, generator=torch.Generator().manual_seed(0)) + 1
    ours = flat_grad_norm(grad.to(implementation)).cpu().double()
    torch.testing.assert_close(ours, grad.double().norm(), rtol=2e-7, atol=0)


def test_frozen_segments_do_not_count(implementation: str) -> None:
    table = flat_table(LENGTHS, lr_scale=[1.0, 0.0, 1.0], device=implementation)
    values = draw(torch.Generator().manual_seed(0))
    grad = pack([values[0], torch.full((LENGTHS[1],), torch.nan), values[2]], table, implementation)
    truth = torch.cat([values[0], values[2]]).norm()
    torch.testing.assert_close(flat_grad_norm(grad, table).cpu(), truth)
    torch.testing.assert_close(flat_asam_norm(torch.ones_like(grad), grad, table).cpu(), truth)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
def test_clipped_steps_equal_torch(max_norm: float, grad_scale: float, implementation: str) -> None:
    table = flat_table(LENGTHS, device=implementation)
    generator = torch.Generator().manual_seed(0)
    values, gradients = draw(generator), draw(generator)
    weights = [value.clone().requires_grad_() for value in values]
    for w, gradient in zip(weights, gradients, strict=True):
        w.grad = gradient * grad_scale
    norm = torch.nn.utils.clip_grad_norm_(weights, max_norm)
    torch.optim.SGD(weights, lr=0.5).step()

    master, grad = pack(values, table, implementation), pack(gradients, table, implementation)
    scalars = flat_scalars(lr=0.5, grad_scale=grad_scale, device=implementation)
    ours = flat_clip(grad, scalars, max_norm, table)
    flat_sgd_step(master, grad, None, table, scalars)
    torch.testing.assert_close(ours.cpu(), norm)
    assert torch.equal(grad, pack(gradients, table, implementation))
    assert (scalars[FlatScalar.CLIP] == 1) == (max_norm > 1)
    assert relative_error(unpack(master, table), weights) < 1e-6


def test_norm_that_is_not_finite(implementation: str) -> None:
    grad = torch.ones(50, device=implementation)
    grad[7] = torch.nan
    assert flat_grad_norm(grad).isnan()
    grad[7] = torch.inf
    assert flat_grad_norm(grad).isinf()
