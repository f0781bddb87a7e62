"""Lookahead over SGD against a plain loop, and when it is due."""

import pytest
import torch
from flat_buffers import COPY_DTYPE, LENGTHS, draw, pack, relative_error, unpack

from cifarfast.kernels import FlatScalar, flat_lookahead, flat_scalars, flat_sgd_step, flat_table


def test_trajectory_equals_a_plain_loop(implementation: str) -> None:
    table = flat_table(LENGTHS, device=implementation)
    generator = torch.Generator().manual_seed(0)
    values = draw(generator)
    master = pack(values, table, implementation)
    slow, copy, scalars = master.clone(), master.to(COPY_DTYPE), flat_scalars(lr=0.1, device=implementation)
    fast = [v.double() for v in values]
    anchors = [v.double() for v in values]
    for step in range(1, 13):
        gradients = draw(generator)
        flat_sgd_step(master, pack(gradients, table, implementation), None, table, scalars, copy=copy)
        flat_lookahead(master, slow, scalars, copy, alpha=0.8, every=4)
        fast = [w - 0.1 * g for w, g in zip(fast, gradients, strict=True)]
        if step % 4 == 0:
            anchors = [a + 0.8 * (w - a) for a, w in zip(anchors, fast, strict=True)]
            fast = [a.clone() for a in anchors]
            assert torch.equal(slow, master)
        assert torch.equal(copy, master.to(COPY_DTYPE))
    assert relative_error(unpack(master, table), fast) < 1e-6
    assert relative_error(unpack(slow, table), anchors) < 1e-6


@pytest.mark.parametrize(("alpha", "follows"), [(0.0, False), (1.0, True)])
def test_alpha_of_0_and_1(alpha: float, follows: bool, implementation: str) -> None:
    master, slow = (torch.randn(1100, device=implementation) for _ in range(2))
    expected = (master if follows else slow).clone()
    flat_lookahead(master, slow, flat_scalars(lr=0.1, device=implementation), alpha=alpha, every=1)
    assert torch.equal(master, expected)
    assert torch.equal(slow, expected)


@pytest.mark.parametrize(("name", "value"), [("STEP", 7.0), ("SKIP", 1.0)])
def test_not_due(name: str, value: float, implementation: str) -> None:
    master, slow = (torch.randn(1100, device=implementation) for _ in range(2))
    before = master.clone(), slow.clone()
    scalars = flat_scalars(lr=0.1, device=implementation)
    scalars[FlatScalar[name]] = value
    flat_lookahead(master, slow, scalars, every=5)
    assert torch.equal(master, before[0])
    assert torch.equal(slow, before[1])
