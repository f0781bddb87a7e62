"""The former names do what the options do, and warn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from norm_inputs import draw_norm, draw_tail, draw_unit
from torch import Tensor

from cifarfast import kernels
from cifarfast.kernels import batch_norm_act, bn_act_conv2d, conv2d, shakedrop_bn_shortcut


def _with_moments(*results: Tensor) -> tuple[Tensor, ...]:
    """Mean and biased variance of the last result behind all of them."""
    var, mean = torch.var_mean(results[-1], dim=(0, 2, 3), correction=0)
    return *results, mean, var


def _unit() -> dict[str, Any]:
    return {**draw_unit(0, "cpu"), "padding": 1, "training": True}


def _norm() -> dict[str, Any]:
    return {name: value for name, value in _unit().items() if name not in ("conv_weight", "padding")}


def _alone() -> dict[str, Any]:
    unit = draw_unit(0, "cpu")
    return {"x": unit["x"], "weight": unit["conv_weight"], "padding": 1}


def _tail() -> dict[str, Any]:
    h, x = draw_tail("cpu")
    return {"h": h, "x": x, "running_mean": torch.zeros(8), "running_var": torch.ones(8), "training": True}


def _units_next() -> dict[str, Any]:
    return {**_unit(), "next_norm": draw_norm(16, "cpu")}


def _tails_next() -> dict[str, Any]:
    return {**_tail(), "next_norm": draw_norm(8, "cpu")}


OPTION_FORMS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[..., tuple[Any, ...]]]] = {
    "fork_batch_norm_act": (_norm, lambda **inputs: batch_norm_act(**inputs, return_input=True)),
    "conv2d_stats": (_alone, lambda **inputs: _with_moments(conv2d(**inputs))),
    "bn_act_conv2d_stats": (_unit, lambda **inputs: _with_moments(bn_act_conv2d(**inputs))),
    "bn_act_conv2d_for_norm": (_units_next, bn_act_conv2d),
    "fork_bn_act_conv2d_stats": (_unit, lambda **i: _with_moments(*bn_act_conv2d(**i, return_input=True))),
    "fork_bn_act_conv2d_for_norm": (_units_next, lambda **inputs: bn_act_conv2d(**inputs, return_input=True)),
    "shakedrop_bn_shortcut_stats": (_tail, lambda **inputs: _with_moments(shakedrop_bn_shortcut(**inputs))),
    "shakedrop_bn_shortcut_for_norm": (_tails_next, shakedrop_bn_shortcut),
}


@pytest.mark.parametrize("forced", ["", "torch"], ids=["plain", "op"])
@pytest.mark.parametrize("name", OPTION_FORMS)
def test_a_former_name(name: str, forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARFAST_BACKEND", forced)
    draw, option_form = OPTION_FORMS[name]
    inputs, same = draw(), draw()
    with pytest.warns(DeprecationWarning, match=f"^{name} is deprecated; call "):
        found = getattr(kernels, name)(**inputs)
    expected = option_form(**same)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    gradients = []
    for results, arguments in ((found, inputs), (expected, same)):
        loss = sum(out.square().sum() for out in results if out is not None and out.requires_grad)
        leaves = [value for value in arguments.values() if isinstance(value, Tensor) and value.requires_grad]
        gradients.append(torch.autograd.grad(loss, leaves))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
