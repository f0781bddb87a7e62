"""Callers' mistakes with the flat optimizer steps and the segment table name the argument."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import cifarfast.kernels as k
from cifarfast.kernels import FLAT_BLOCK, FlatScalar, flat_scalars, flat_table

TABLE = flat_table([1000, 30])
P = TABLE.length


def _arguments(**changes: Any) -> dict[str, Any]:
    buffers = {name: torch.zeros(P) for name in ("master", "grad", "exp_avg", "exp_avg_sq")}
    return {**buffers, "table": TABLE, "scalars": flat_scalars(lr=0.1), **changes}


WRONG = {
    "master half": ({"master": torch.zeros(P).half()}, "master"),
    "master 2-d": ({"master": torch.zeros(P, 1)}, "master"),
    "master empty": ({"master": torch.zeros(0)}, "master"),
    "master with gaps": ({"master": torch.zeros(2 * P)[::2]}, "master"),
    "grad missing": ({"grad": None}, "grad"),
    "grad short": ({"grad": torch.zeros(P - 1)}, "grad"),
    "grad integer": ({"grad": torch.zeros(P, dtype=torch.int32)}, "grad"),
    "grad fp64": ({"grad": torch.zeros(P).double()}, "grad"),
    "grad elsewhere": ({"grad": torch.zeros(P, device="meta")}, "grad"),
    "state half": ({"exp_avg": torch.zeros(P).bfloat16()}, "exp_avg"),
    "state short": ({"exp_avg_sq": torch.zeros(5)}, "exp_avg_sq"),
    "state missing": ({"exp_avg_sq": None}, "exp_avg_sq"),
    "ema half": ({"ema": torch.zeros(P).half()}, "ema"),
    "copy integer": ({"copy": torch.zeros(P, dtype=torch.int8)}, "copy"),
    "copy short": ({"copy": torch.zeros(P - FLAT_BLOCK).half()}, "copy"),
    "table of fewer blocks": ({"table": flat_table([1000])}, "table"),
    "table fp64": ({"table": TABLE._replace(settings=TABLE.settings.double())}, "table"),
    "table transposed": ({"table": TABLE._replace(settings=TABLE.settings.t().contiguous().t())}, "table"),
    "scalars fp32": ({"scalars": flat_scalars(lr=0.1).float()}, "scalars"),
    "scalars with gaps": ({"scalars": flat_scalars(lr=0.1).repeat_interleave(2)[::2]}, "scalars"),
    "scalars short": ({"scalars": torch.zeros(3, dtype=torch.float64)}, "scalars"),
    "betas": ({"betas": (0.9, 1.0)}, "betas"),
    "eps": ({"eps": 0.0}, "eps"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_name_the_argument(mistake: str) -> None:
    changes, name = WRONG[mistake]
    with pytest.raises(ValueError, match=rf"^{name} "):
        k.flat_adam_step(**_arguments(**changes))


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
