"""What ``bn_act_conv2d`` makes for the batch norm after it."""

import pytest
import torch
import torch.nn.functional as F
from norm_inputs import BUFFERS, arguments_of, draw_norm, draw_unit, leaves_of
from torch import Tensor, nn

from cifarfast.kernels import bn_act_conv2d
from cifarfast.kernels.testing.spec import SampleMaker


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("return_input", [False, True])
def test_statistics_for_the_norm_after(return_input: bool, momentum: float | None, implementation: str) -> None:
    """Two batches: the output, what the next batch norm makes of it, its running statistics and all gradients are those
    of torch's modules, and who takes the statistics does not update again."""
    first, second = draw_unit(0, implementation, k=16, h=9, w=8), draw_unit(1, implementation, c=16, k=8)
    found = []
    for fused in (True, False):
        norm = draw_norm(16, implementation, momentum)
        inputs = {name: value.clone() if "running" in name else value for name, value in first.items()}
        shortcut, leaves = first["x"], [*leaves_of(first), second["conv_weight"], norm.weight, norm.bias]
        for batch in range(2):
            if fused:
                options = {"next_norm": norm, "return_input": return_input}
                *forked, y, statistics = bn_act_conv2d(**inputs, training=True, padding=1, **options)
                assert norm.num_batches_tracked.item() == batch + 1
                shortcut = forked[0] if forked else shortcut
                settings = {**arguments_of(norm), "statistics": statistics}
                z = bn_act_conv2d(y, second["conv_weight"], **settings, training=True, padding=1, act="silu")
            else:
                y = bn_act_conv2d(**inputs, training=True, padding=1)
                z = F.conv2d(F.silu(norm(y)), second["conv_weight"], padding=1)
        assert norm.num_batches_tracked.item() == 2
        loss = z.square().sum() + y.sum() + (shortcut * 2).square().sum()
        buffers = [norm.running_mean, norm.running_var, inputs["running_mean"], inputs["running_var"]]
        found.append([y, z, *buffers, *torch.autograd.grad(loss, leaves)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_statistics_for_the_norm_after_are_those_of_the_rounded_output(dtype: torch.dtype, implementation: str) -> None:
    """With a mean far from zero too; buffers may have its dtype; there are more tiles than one program joins."""
    make = SampleMaker(dtype, implementation)
    x, conv_weight = make.randn(2, 8, 33, 33), make.randn(8, 8, 1, 1, scale=1e-2)
    x[:, 0], conv_weight[:, 0] = 100.0, 1.0
    norm = draw_norm(8, implementation, 1.0, dtype=dtype)
    parameters = {"running_mean": x.new_zeros(8), "running_var": x.new_ones(8), "act": "identity", "eps": 0.0}
    y, statistics = bn_act_conv2d(x, conv_weight, **parameters, next_norm=norm)
    var, mean = torch.var_mean(y.double(), dim=(0, 2, 3), correction=0)
    assert statistics.shape == (3, 8)
    assert statistics.dtype == torch.float32
    found = statistics[0].double() + statistics[1].double()
    torch.testing.assert_close(found, mean, rtol=3 * 2**-24, atol=1e-8)
    torch.testing.assert_close(statistics[2].double(), 1 / (var + 1e-3).sqrt(), rtol=1e-5, atol=0)
    m = y.numel() // 8
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-6 if dtype == torch.float32 else 4e-3, atol=0)
    torch.testing.assert_close(norm.running_var.double(), var * m / (m - 1), rtol=4e-3, atol=0)


@pytest.mark.parametrize("return_input", [False, True])
def test_the_norm_after_counts_once(return_input: bool, implementation: str) -> None:
    """However many blocks of channels there are; without tracking, as in a SAM step's second pass, nothing moves."""
    inputs = draw_unit(8, implementation, k=264, size=1)
    norm, second = draw_norm(264, implementation), draw_unit(9, implementation, c=264, size=1)["conv_weight"]
    for tracks in (True, False):
        norm.track_running_stats = tracks
        before = [norm.running_mean.clone(), norm.running_var.clone()]
        *_, y, statistics = bn_act_conv2d(**inputs, training=True, next_norm=norm, return_input=return_input)
        own = arguments_of(norm) if tracks else {**arguments_of(norm), **dict.fromkeys(BUFFERS)}
        z = bn_act_conv2d(y, second, **own, statistics=statistics, training=True, act="identity")
        assert norm.num_batches_tracked.item() == 1
        assert torch.equal(norm.running_mean, before[0]) != tracks
        assert torch.equal(norm.running_var, before[1]) != tracks
        expected = F.conv2d(F.batch_norm(y, None, None, norm.weight, norm.bias, True, 0.0, norm.eps), second)
        torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("tracks", [True, False])
def test_for_norm_compiles_with_inductor(tracks: bool, implementation: str) -> None:
    first = {name: value.detach() for name, value in draw_unit(4, implementation).items()}
    second = draw_unit(5, implementation, c=16, k=8)["conv_weight"].detach()

    def unit(norm: nn.Module, x: Tensor) -> Tensor:
        y, statistics = bn_act_conv2d(**{**first, "x": x}, training=True, padding=1, next_norm=norm)
        own = arguments_of(norm) if tracks else {**arguments_of(norm), **dict.fromkeys(BUFFERS)}
        return bn_act_conv2d(y, second, **own, training=True, statistics=statistics)

    torch.compiler.reset()
    results = []
    for run in (torch.compile(unit, fullgraph=True), unit):
        norm = draw_norm(16, implementation)
        norm.track_running_stats = tracks
        results.append([run(norm, first["x"]), norm.running_mean, norm.running_var, norm.num_batches_tracked])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_opcheck_for_the_norm_after(implementation: str) -> None:
    inputs = {name: value.detach() for name, value in draw_unit(0, implementation).items()}
    x, conv_weight, mean, var, weight, bias = inputs.values()
    statistics = torch.stack([mean, torch.zeros_like(mean), var.rsqrt()])
    settings = (True, "relu", 0.0)
    count = torch.tensor(3, device=implementation)
    buffers = (torch.zeros(16, device=implementation), torch.ones(16, device=implementation), count)
    op = torch.ops.cifarfast.bn_act_conv2d.default
    for momentum in (0.1, None):
        arguments = (x, conv_weight, statistics, weight, bias, *settings, *buffers, momentum, 1e-5, True, 1, 1)
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("return_input", [False, True])
def test_for_norm_compiles_fullgraph(return_input: bool, implementation: str) -> None:
    first = {name: value.detach() for name, value in draw_unit(4, implementation).items()}
    second = draw_unit(5, implementation, c=16, k=8)["conv_weight"].detach()

    def unit(norm: nn.Module, x: Tensor) -> Tensor:
        options = {"next_norm": norm, "return_input": return_input}
        *_, y, statistics = bn_act_conv2d(**{**first, "x": x}, training=True, padding=1, **options)
        return bn_act_conv2d(y, second, **arguments_of(norm), training=True, statistics=statistics)

    torch.compiler.reset()
    results = []
    for run in (torch.compile(unit, fullgraph=True, backend="aot_eager"), unit):
        norm, x = draw_norm(16, implementation), first["x"].clone().requires_grad_()
        z = run(norm, x)
        assert norm.num_batches_tracked.item() == 1
        results.append([z, norm.running_mean, norm.running_var, torch.autograd.grad(z.square().sum(), x)[0]])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def _unit(side: int, batch: int = 2) -> dict[str, Tensor]:
    tensors = {"x": torch.zeros(batch, 8, side, side), "conv_weight": torch.zeros(16, 8, 3, 3)}
    return {**tensors, "running_mean": torch.zeros(8), "running_var": torch.ones(8)}


def _with_gaps(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.running_var = torch.ones(32)[::2]
    return norm


def _without(norm: nn.BatchNorm2d, name: str) -> nn.BatchNorm2d:
    setattr(norm, name, None)
    return norm


def _with_momentum(norm: nn.BatchNorm2d, momentum: float) -> nn.BatchNorm2d:
    norm.momentum = momentum
    return norm


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(8), r"next_norm's running_mean must be \[16\]"),
        (nn.BatchNorm2d(16).eval(), "next_norm must be in training"),
        (nn.GroupNorm(2, 16), "next_norm must be a torch.nn.BatchNorm2d, got GroupNorm"),
        (nn.BatchNorm2d(16).double(), "next_norm's running_mean must be torch.float32"),
        (_with_gaps(nn.BatchNorm2d(16)), "next_norm's running_var must be contiguous"),
        (_without(nn.BatchNorm2d(16), "running_var"), "next_norm's running_var must be given"),
        (_without(nn.BatchNorm2d(16, momentum=None), "num_batches_tracked"), "next_norm's num_batches_tracked must be"),
        (_with_momentum(nn.BatchNorm2d(16), 2.0), "next_norm's momentum must lie in"),
    ],
)
def test_mistakes_of_the_norm_after(norm: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        bn_act_conv2d(**_unit(5), padding=1, training=True, next_norm=norm)
    with pytest.raises(ValueError, match="next_norm's input must have more than one value per channel"):
        bn_act_conv2d(**_unit(3, batch=1), training=True, next_norm=nn.BatchNorm2d(16))


def test_statistics_are_left_to_the_next_norm_on_plain_torch() -> None:
    norm = nn.BatchNorm2d(16)
    x, y, statistics = bn_act_conv2d(**_unit(5), padding=1, training=True, next_norm=norm, return_input=True)
    assert (x.shape, y.shape, statistics) == ((2, 8, 5, 5), (2, 16, 5, 5), None)
    assert norm.num_batches_tracked.item() == 0
