"""How many kernels a convolution op launches: a step has hundreds of them, and a launch takes as long as a small one.

The kernels' launches are recorded; what torch runs beside them is in the profiler's list.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifarfast.kernels import bn_act_conv2d, conv2d, conv2d_bn_act
from cifarfast.kernels.convolution.conv2d_bn_act import op as conv2d_bn_act_op
from cifarfast.kernels.testing.compile_report import builds
from cifarfast.kernels.testing.recorder import Launch, record
from cifarfast.kernels.tuning import tables as tuning

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter launches nothing")

# what takes no launch: memory, views, and copies that find nothing to do
FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "resize_", "result_type"),
    *("_nnpack_available", "select", "as_strided", "detach", "view", "view_as", "alias", "contiguous", "to", "expand"),
}


class Counts:
    """How often each kernel was launched since the last ``clear``; equal to a dictionary that says the same."""

    def __init__(self, launches: list[Launch]) -> None:
        self._launches = launches

    def __eq__(self, other: object) -> bool:
        return Counter(launch.name for launch in self._launches) == other

    def __repr__(self) -> str:
        return repr(Counter(launch.name for launch in self._launches))

    def clear(self) -> None:
        self._launches.clear()


@pytest.fixture
def launched() -> Iterator[Counts]:
    from cifarfast.kernels.last_block import take_counters

    take_counters(1, torch.device("cpu"))  # the first makes them
    with record() as launches:
        yield Counts(launches)


def rows(channels: int, *, gradient: bool = False) -> list[Tensor]:
    return [torch.ones(channels, requires_grad=gradient) for _ in range(2)]


def image(channels: int) -> Tensor:
    x = torch.randn(2, channels, 8, 8, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def weight(outputs: int, inputs: int) -> Tensor:
    kernel = torch.randn(outputs, inputs, 3, 3, dtype=torch.bfloat16)
    return kernel.contiguous(memory_format=torch.channels_last).requires_grad_()


def torch_launches(profile: Any) -> Counter[str]:
    """The torch ops that launch a kernel on a GPU."""
    names = [event.name.removeprefix("aten::") for event in profile.events() if event.name.startswith("aten::")]
    return Counter(name for name in names if name not in FREE)


@pytest.mark.parametrize("next_norm", [None, nn.BatchNorm2d(16)], ids=["alone", "next_norm"])
def test_launches_of_conv2d(next_norm: nn.BatchNorm2d | None, launched: Counts) -> None:
    x, kernel = image(16), weight(16, 16)
    with torch.profiler.profile() as profile:
        result = conv2d(x, kernel, padding=1, next_norm=next_norm)
        y = result if next_norm is None else result[0]
        assert launched == {"conv_fwd_kernel": 1}
        torch.autograd.grad(y, (x, kernel), y.detach())
    assert launched == dict.fromkeys(
        ("conv_fwd_kernel", "conv_dgrad_kernel", "conv_wgrad_kernel", "conv_wgrad_reduce_kernel"), 1
    )
    assert not torch_launches(profile)


@pytest.mark.parametrize("return_input", [False, True])
def test_launches_for_the_norm_after(return_input: bool, launched: Counts) -> None:
    """Its statistics and their running average take no launch: a unit is given them and launches its convolution."""
    x, first, second = image(16), weight(16, 16), weight(16, 16)
    norm, buffers, parameters = nn.BatchNorm2d(16), rows(16), rows(16, gradient=True)
    settings: dict[str, Any] = {"training": True, "padding": 1}
    options: dict[str, Any] = {"statistics": torch.zeros(3, 16), "next_norm": norm, "return_input": return_input}
    with torch.profiler.profile() as profile:
        *forked, y, statistics = bn_act_conv2d(x, first, *buffers, *parameters, **options, **settings)
        assert launched == {"conv_fwd_kernel": 1}
        launched.clear()
        own = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        z = bn_act_conv2d(y, second, *own, statistics=statistics, **settings)
        assert launched == {"conv_fwd_kernel": 1}
        launched.clear()
        results = [z, *forked]
        leaves = (x, first, second, norm.weight, *parameters)
        torch.autograd.grad(results, leaves, [result.detach() for result in results])
    unit = ("conv_dgrad_kernel", "conv_wgrad_kernel", "conv_wgrad_reduce_kernel")
    first_norm = "fork_batch_norm_act_bwd_kernel" if return_input else "batch_norm_act_bwd_kernel"
    assert launched == Counter([*unit, *unit, "batch_norm_act_bwd_kernel", first_norm])
    assert not torch_launches(profile)


def test_launches_of_conv2d_bn_act(launched: Counts) -> None:
    x, kernel = image(16), weight(16, 16)
    buffers, parameters = rows(16), rows(16, gradient=True)
    with torch.profiler.profile() as profile:
        z = conv2d_bn_act(x, kernel, *buffers, *parameters, padding=1, training=True)
        assert launched == dict.fromkeys(("conv_fwd_kernel", "batch_norm_act_fwd_kernel"), 1)
        launched.clear()
        torch.autograd.grad(z, (x, kernel, *parameters), z.detach())
    norm = ("batch_norm_act_bwd_sums_kernel", "batch_norm_act_bwd_kernel")
    assert launched == dict.fromkeys((*norm, "conv_dgrad_kernel", "conv_wgrad_kernel", "conv_wgrad_reduce_kernel"), 1)
    assert not torch_launches(profile)


def test_launches_of_conv2d_bn_act_by_the_library(launched: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution, and what ``batch_norm_act`` launches in training."""
    monkeypatch.setattr(conv2d_bn_act_op.forward, "_runs", lambda op, x, *_: "torch")
    arguments = (image(16), weight(16, 16), *rows(16), *rows(16, gradient=True))
    with torch.profiler.profile() as profile:
        conv2d_bn_act(*arguments, padding=1, training=True)
    assert launched == dict.fromkeys(("batch_norm_act_stats_kernel", "batch_norm_act_fwd_kernel"), 1)
    assert {name for name in torch_launches(profile) if "conv" not in name} == set()


def test_launches_in_eval(launched: Counts) -> None:
    """Statistics of the running ones take one, and with no gradient asked for the convolution does the rest."""
    arguments = (image(16).detach(), weight(16, 16).detach(), *rows(16), *rows(16))
    with torch.profiler.profile() as profile:
        conv2d_bn_act(*arguments, padding=1)
        assert launched == dict.fromkeys(("running_statistics_kernel", "conv_fwd_kernel"), 1)
        launched.clear()
        bn_act_conv2d(*arguments, padding=1)
        assert launched == dict.fromkeys(("running_statistics_kernel", "conv_fwd_kernel"), 1)
    assert not torch_launches(profile)


def test_costly_kernels_are_in_the_compile_report() -> None:
    for arch in tuning.MODELS:
        launches = [build.launch for build in builds(["bn_act_conv2d"], [arch])]
        forward, dgrad, wgrad = (
            [launch.settings for launch in launches if launch.name == kernel]
            for kernel in ("conv_fwd_kernel", "conv_dgrad_kernel", "conv_wgrad_kernel")
        )
        assert {settings["ACT"] for settings in forward} == {"relu", "silu", "tanh", "gelu"}
        both = set(product(("relu", "gelu"), (0, 1)))
        assert {(settings["ACT"], settings["FROZEN"]) for settings in dgrad} == both | {("silu", 0)}
        assert {settings["ACT"] for settings in wgrad} == {"relu", "silu", "gelu"}
        for settings in (forward, dgrad, wgrad):
            assert {one["KERNEL_W"] for one in settings} == {1, 3}


def test_a_torch_op_beside_the_kernels_is_noticed(launched: Counts) -> None:
    """A batch norm's parameters with gaps are copied."""
    arguments = (image(16), weight(16, 16), *rows(16), *(row[::2] for row in rows(32)))
    with torch.profiler.profile() as profile:
        bn_act_conv2d(*arguments, training=True, padding=1)
    assert torch_launches(profile)["clone"] == 2
