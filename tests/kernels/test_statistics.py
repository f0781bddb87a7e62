"""Statistics that an op is given, and those that it makes for the batch norm after it."""

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from norm_inputs import BUFFERS, arguments_of, draw_counters, draw_norm, draw_tail, draw_unit
from torch import Tensor, nn

from cifarfast.kernels import batch_norm_act
from cifarfast.kernels.batch_norm.sample_inputs import given_statistics
from cifarfast.kernels.testing.check import run
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker

TAKING = ("batch_norm_act", "bn_act_conv2d", "global_avg_pool_act", "shakedrop_bn_shortcut")
MAKING = ("conv2d", "bn_act_conv2d", "shakedrop_bn_shortcut")


@pytest.mark.ops(*TAKING)
def test_given_statistics(dtype: torch.dtype, spec: OpSpec, implementation: str) -> None:
    """They normalise x, gradients go through them as through x's own, and the running ones and their count stay."""
    inputs = next(iter(spec.cases.values()))(SampleMaker(dtype, implementation))
    x = inputs["h" if "h" in inputs else "x"]
    buffers = {name: torch.full_like(inputs["weight"], 0.5) for name in ("running_mean", "running_var")}
    inputs, count = {**inputs, **buffers}, torch.tensor(4, device=implementation)
    statistics = given_statistics({**inputs, "x": x})
    given = functools.partial(spec.function, statistics=statistics, num_batches_tracked=count)
    (found, gradients), (expected, expected_gradients) = (run(spec, f, inputs) for f in (given, spec.function))
    torch.testing.assert_close([found[0], *gradients], [expected[0], *expected_gradients])
    assert count.item() == 4
    assert [buffer.unique().tolist() for buffer in found[1:]] == [[0.5], [0.5]]
    assert not any(torch.equal(*pair) for pair in zip(found[1:], expected[1:], strict=True))


def _draw(op: str, device: str, channels: int = 8) -> tuple[Inputs, list[Tensor]]:
    """Arguments of an op with that many output channels, and their leaves."""
    if op == "shakedrop_bn_shortcut":
        h, x = draw_tail(device, channels)
        inputs = {"h": h, "x": x, "running_mean": None, "running_var": None, "training": True}
        inputs |= {"keep_probability": 0.5, **draw_counters(device)}
    else:
        size: dict[str, int] = {"h": 9, "w": 8} if channels == 8 else {"size": 1}
        inputs = draw_unit(0, device, k=channels, **size) | {"padding": 1}
        if op == "conv2d":
            inputs = {"x": inputs["x"], "weight": inputs["conv_weight"], "padding": 1}
        else:
            inputs["training"] = True
    return inputs, [value for value in inputs.values() if isinstance(value, Tensor) and value.requires_grad]


def _function(spec: OpSpec) -> Callable[..., Any]:
    """The op itself; conv2d's OpSpec leaves the statistics away."""
    import cifarfast.kernels as k

    return getattr(k, spec.name)


def _chain(spec: OpSpec, inputs: Inputs, norm: nn.BatchNorm2d, **options: Any) -> list[Tensor]:
    """The op's outputs and the batch norm after it, that takes its statistics."""
    *outputs, statistics = _function(spec)(**inputs, next_norm=norm, **options)
    own = arguments_of(norm)
    if not norm.track_running_stats:
        own |= dict.fromkeys(BUFFERS)
    return [*outputs, batch_norm_act(outputs[-1], **own, statistics=statistics, training=True, act="silu")]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.ops(*MAKING)
@pytest.mark.parametrize("momentum", [0.3, None])
def test_statistics_for_the_norm_after(momentum: float | None, spec: OpSpec, implementation: str) -> None:
    """Two batches: outputs, what the next batch norm makes of them, all running statistics and gradients are those of
    torch's modules, and who takes the statistics does not update again."""
    for options in ({}, {"return_input": True}) if spec.name == "bn_act_conv2d" else ({},):
        inputs, leaves = _draw(spec.name, implementation)
        found = []
        for hands_on in (True, False):
            norm = draw_norm(8, implementation, momentum)
            own = {n: v.clone() if n.startswith("running") and v is not None else v for n, v in inputs.items()}
            for batch in range(2):
                if hands_on:
                    *forked, y, z = _chain(spec, own, norm, **options)
                    assert norm.num_batches_tracked.item() == batch + 1
                else:
                    *forked, y = [own["x"], _function(spec)(**own)] if options else [_function(spec)(**own)]
                    z = F.silu(norm(y))
            loss = z.square().sum() + y.sum() + sum((2 * x).square().sum() for x in forked)
            buffers = [own[name] for name in ("running_mean", "running_var") if own.get(name) is not None]
            gradients = torch.autograd.grad(loss, [*leaves, norm.weight, norm.bias])
            found.append([*forked, y, z, *norm.buffers(), *buffers, *gradients])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.ops(*MAKING)
def test_the_norm_after_counts_once(spec: OpSpec, implementation: str) -> None:
    """However many blocks of channels there are; without tracking, as in a SAM step's second pass, nothing moves."""
    for options in ({}, {"return_input": True}) if spec.name == "bn_act_conv2d" else ({},):
        inputs, _ = _draw(spec.name, implementation, 264)
        norm = draw_norm(264, implementation)
        for tracks in (True, False):
            norm.track_running_stats = tracks
            before = [norm.running_mean.clone(), norm.running_var.clone()]
            *_, y, z = _chain(spec, inputs, norm, **options)
            assert norm.num_batches_tracked.item() == 1
            assert torch.equal(norm.running_mean, before[0]) != tracks
            assert torch.equal(norm.running_var, before[1]) != tracks
            expected = F.silu(F.batch_norm(y, None, None, norm.weight, norm.bias, True, 0.0, norm.eps))
            torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-3)


def _compiles(spec: OpSpec, device: str, tracks: bool, **how: str) -> None:
    inputs, leaves = _draw(spec.name, device)
    options = {"return_input": True} if spec.name == "bn_act_conv2d" and tracks else {}

    def unit(norm: nn.BatchNorm2d, inputs: Inputs) -> Tensor:
        return _chain(spec, inputs, norm, **options)[-1]

    torch.compiler.reset()
    results = []
    for function in (torch.compile(unit, fullgraph=True, **how), unit):
        norm = draw_norm(8, device)
        norm.track_running_stats = tracks
        z = function(norm, inputs)
        assert norm.num_batches_tracked.item() == tracks
        results.append([z, *norm.buffers(), *torch.autograd.grad(z.square().sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the graph is that of any implementation")
@pytest.mark.ops(*MAKING)
def test_for_norm_compiles_fullgraph(spec: OpSpec, implementation: str) -> None:
    for tracks in (True, False) if spec.name == "bn_act_conv2d" else (True,):
        _compiles(spec, implementation, tracks, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.ops("bn_act_conv2d")
@pytest.mark.parametrize("tracks", [True, False])
def test_for_norm_compiles_with_inductor(tracks: bool, spec: OpSpec, implementation: str) -> None:
    _compiles(spec, implementation, tracks)


def _with(norm: nn.BatchNorm2d, **changes: Any) -> nn.BatchNorm2d:
    for name, value in changes.items():
        setattr(norm, name, value)
    return norm


@pytest.mark.ops(*MAKING)
@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(16), r"next_norm's running_mean must be \[8\]"),
        (nn.BatchNorm2d(8).eval(), "next_norm must be in training"),
        (nn.GroupNorm(2, 8), "next_norm must be a torch.nn.BatchNorm2d, got GroupNorm"),
        (nn.BatchNorm2d(8, device="meta"), "next_norm's running_mean must be on"),
        (nn.BatchNorm2d(8).double(), "next_norm's running_mean must be torch.float32"),
        (_with(nn.BatchNorm2d(8), running_var=torch.ones(16)[::2]), "next_norm's running_var must be contiguous"),
        (_with(nn.BatchNorm2d(8), running_var=None), "next_norm's running_var must be given"),
        (_with(nn.BatchNorm2d(8, momentum=None), num_batches_tracked=None), "next_norm's num_batches_tracked must be"),
        (_with(nn.BatchNorm2d(8), momentum=2.0), "next_norm's momentum must lie in"),
    ],
)
def test_mistakes_of_the_norm_after(norm: nn.Module, message: str, spec: OpSpec) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        _function(spec)(**_draw(spec.name, "cpu")[0], next_norm=norm)


@pytest.mark.ops("conv2d", "bn_act_conv2d")
def test_one_value_for_the_norm_after(spec: OpSpec) -> None:
    inputs = {**_draw(spec.name, "cpu")[0], "x": torch.zeros(1, 8, 3, 3), "padding": 0}
    with pytest.raises(ValueError, match="next_norm's input must have more than one value per channel"):
        _function(spec)(**inputs, next_norm=nn.BatchNorm2d(8))


@pytest.mark.ops("bn_act_conv2d", "shakedrop_bn_shortcut")
def test_plain_torch_leaves_statistics_to_the_norm_after(spec: OpSpec) -> None:
    inputs, norm = _draw(spec.name, "cpu")[0], nn.BatchNorm2d(8)
    y, statistics = _function(spec)(**inputs, next_norm=norm)
    assert statistics is None
    assert norm.num_batches_tracked.item() == 0
    torch.testing.assert_close(y, _function(spec)(**inputs), rtol=0, atol=0)
