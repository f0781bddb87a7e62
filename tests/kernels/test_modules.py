"""The modules of the ops against torch's: state, results, gradients and buffers, eager and in one graph."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from norm_inputs import draw_counters
from torch import Tensor, nn

import cifarfast.kernels as k
from cifarfast.kernels import share_randomness
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

IMAGE = (3, 8, 4, 5)
USED = (slice(None), slice(1), slice(-1, None))  # of two outputs both, the first or the last
SETTINGS: list[dict[str, Any]] = [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False, "eps": 0.1}]


@dataclass(frozen=True)
class Pair:
    """A module, what it computes with torch's, and the shapes of its inputs."""

    ours: Callable[..., nn.Module]
    torchs: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    conv: tuple[int, ...] = ()

    def make(self, device: str, **settings: Any) -> tuple[nn.Module, nn.Module]:
        ours, norm = self.ours(**settings), nn.BatchNorm2d(8, **settings)
        theirs = nn.ModuleDict({"conv": nn.Conv2d(8, 8, *self.conv, bias=False), "bn": norm}) if self.conv else norm
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        theirs.load_state_dict(ours.state_dict())
        return ours.to(device), theirs.to(device)

    def draw(self, make: SampleMaker) -> list[Tensor]:
        return [(make.randn(*shape) * 2 + 1).requires_grad_() for shape in self.shapes]


PAIRS = {
    "batch_norm_act": [
        Pair(lambda **s: k.BatchNormAct2d(8, act="silu", **s), lambda bn, x: F.silu(bn(x))),
        Pair(lambda **s: k.BatchNormAct2d(8, **s), lambda bn, x, y: F.relu(bn(x) + y), (IMAGE, IMAGE)),
        Pair(lambda **s: k.ForkBatchNormAct2d(8, **s), lambda bn, x: (x, F.relu(bn(x)))),
    ],
    "add_batch_norm_act": [
        Pair(lambda **s: k.AddBatchNormAct2d(8, **s), lambda bn, a, b: (a + b, F.relu(bn(a + b))), (IMAGE, IMAGE))
    ],
    "global_avg_pool_act": [
        Pair(lambda **s: k.GlobalAvgPoolAct2d(8, **s), lambda bn, x: F.relu(bn(x)).mean(dim=(2, 3)))
    ],
    "max_pool_bn_act": [
        Pair(lambda **s: k.MaxPoolBatchNormAct2d(8, **s), lambda bn, x: F.max_pool2d(F.relu(bn(x)), 2))
    ],
    "shakedrop_bn_shortcut": [
        Pair(
            lambda **s: k.ShakeDropTail(8, 1.0, **s),
            lambda bn, h, x: bn(h) + F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, 3)),
            (IMAGE, (3, 5, 8, 10)),
        )
    ],
    "bn_act_conv2d": [
        Pair(
            lambda **s: k.BNActConv2d(8, 8, 3, stride=2, padding=1, **s),
            lambda parts, x: parts["conv"](F.relu(parts["bn"](x))),
            conv=(3, 2, 1),
        )
    ],
    "conv2d_bn_act": [
        Pair(
            lambda **s: k.ConvBNAct2d(8, 8, 3, padding=1, act="silu", **s),
            lambda parts, x: F.silu(parts["bn"](parts["conv"](x))),
            conv=(3, 1, 1),
        ),
        Pair(
            lambda **s: k.ConvBNAct2d(8, 8, 1, act="tanh", **s),
            lambda parts, x, y: torch.tanh(parts["bn"](parts["conv"](x)) + y),
            (IMAGE, IMAGE),
            conv=(1,),
        ),
    ],
}


def _results(forward: Callable[..., Any], module: nn.Module, inputs: list[Tensor], used: slice) -> list[Tensor]:
    """Outputs, the gradients of inputs and parameters for the outputs that are used, and buffers."""
    found = forward(*inputs)
    outputs = list(found) if isinstance(found, tuple) else [found]
    leaves = [*inputs, *module.parameters()]
    loss = sum(out.sin().sum() for out in outputs[used])
    return [*outputs, *torch.autograd.grad(loss, leaves, materialize_grads=True), *module.buffers()]


@pytest.mark.ops(*PAIRS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_is_torchs(settings: dict[str, Any], spec: OpSpec, implementation: str) -> None:
    for pair in PAIRS[spec.name]:
        ours, theirs = pair.make(implementation, **settings)
        make = SampleMaker(torch.float32, implementation)
        for training, used in product((True, False), USED):
            inputs = pair.draw(make)
            found = _results(ours.train(training), ours, inputs, used)
            expected = _results(lambda *x: pair.torchs(theirs, *x), theirs.train(training), inputs, used)  # noqa: B023
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            with torch.no_grad():
                torch.testing.assert_close(ours(*inputs), pair.torchs(theirs, *inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the graph is that of any implementation")
@pytest.mark.ops(*PAIRS)
@pytest.mark.parametrize("training", [True, False])
def test_compiles_fullgraph(training: bool, spec: OpSpec, implementation: str) -> None:
    """Inputs are not leaves, and of two outputs both or one are used."""
    for pair in PAIRS[spec.name]:
        module = pair.make(implementation)[0].train(training)
        if hasattr(module, "keep_probability"):
            module.keep_probability = 0.5
            share_randomness(module, **draw_counters(implementation))
        inputs = pair.draw(SampleMaker(torch.float32, implementation))
        two = isinstance(module, k.ForkBatchNormAct2d | k.AddBatchNormAct2d)
        for used in USED if two and training else USED[:1]:
            torch.compiler.reset()
            eager = copy.deepcopy(module)

            def block(*xs: Tensor) -> Any:
                return module(*(2 * x for x in xs))  # noqa: B023

            compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
            found = _results(compiled, module, inputs, used)
            expected = _results(lambda *xs: eager(*(2 * x for x in xs)), eager, inputs, used)  # noqa: B023
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    if not training:
        with torch.no_grad():
            torch.testing.assert_close(compiled(*inputs), block(*inputs))
