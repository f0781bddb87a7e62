"""Callers' mistakes with the flat optimizer steps and the segment table name the argument."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import cifarfast.kernels as k
from cifarfast.kernels import FLAT_BLOCK, FlatScalar, flat_scalars, flat_table

TABLE = flat_table([1000, 30])
P = TABLE.length


STEPS: dict[str, tuple[Callable[..., None], list[Any], dict[str, Any], str]] = {
    "momentum without buffer": (k.flat_sgd_step, [None], {"momentum": 0.9}, "momentum_buffer"),
    "buffer without momentum": (k.flat_sgd_step, [torch.zeros(P)], {}, "momentum_buffer"),
    "nesterov alone": (k.flat_sgd_step, [None], {"nesterov": True}, "nesterov"),
    "momentum of 1": (k.flat_sgd_step, [torch.zeros(P)], {"momentum": 1.0}, "momentum"),
    "rmsprop alpha": (k.flat_rmsprop_step, [torch.zeros(P), None], {"alpha": -0.1}, "alpha"),
    "nadam decay": (k.flat_nadam_step, [torch.zeros(P)] * 2, {"momentum_decay": -1.0}, "momentum_decay"),
    "adagrad decay": (k.flat_adagrad_step, [torch.zeros(P)], {"lr_decay": -1.0}, "lr_decay"),
}


@pytest.mark.parametrize("mistake", STEPS)
def test_settings_that_do_not_fit(mistake: str) -> None:
    step, states, options, name = STEPS[mistake]
    with pytest.raises(ValueError, match=rf"^{name} "):
        step(torch.zeros(P), torch.zeros(P), *states, TABLE, flat_scalars(lr=0.1), **options)


@pytest.mark.parametrize(
    ("lengths", "options", "name"),
    [
        ([], {}, "lengths"),
        ([3, 0], {}, "lengths"),
        ([3, 4], {"weight_decay": [0.1]}, "weight_decay"),
        ([3], {"weight_decay": -0.1}, "weight_decay"),
        ([3], {"l2": float("inf")}, "l2"),
        ([3], {"lr_scale": float("nan")}, "lr_scale"),
    ],
)
def test_impossible_tables(lengths: list[int], options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} "):
        flat_table(lengths, **options)


def test_table_layout() -> None:
    table = flat_table([1, FLAT_BLOCK, FLAT_BLOCK + 1], weight_decay=[0.1, 0.2, 0.3], l2=0.5, lr_scale=[1, 0, 2])
    assert table.offsets == (0, FLAT_BLOCK, 2 * FLAT_BLOCK)
    assert table.length == 4 * FLAT_BLOCK
    assert table.settings.dtype == torch.float32
    rows = [[1.0, 0.1, 0.5], [0.0, 0.2, 0.5], [2.0, 0.3, 0.5], [2.0, 0.3, 0.5]]
    torch.testing.assert_close(table.settings, torch.tensor(rows))


def test_scalars_begin_before_the_first_step() -> None:
    scalars = flat_scalars(lr=0.3, ema_decay=0.99, grad_scale=0.5)
    assert scalars[FlatScalar.LR] == 0.3
    assert scalars[FlatScalar.STEP] == 0
    assert scalars[FlatScalar.CLIP] == 1
