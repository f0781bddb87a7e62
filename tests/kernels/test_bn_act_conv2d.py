"""Properties, agreement with torch's modules, and errors of ``bn_act_conv2d``, beyond what its OpSpec generates."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cifarfast.kernels import (
    BNActConv2d,
    batch_norm_act,
    bn_act_conv2d,
    bn_act_conv2d_for_norm,
    bn_act_conv2d_stats,
    conv2d_stats,
    fork_bn_act_conv2d_for_norm,
    fork_bn_act_conv2d_stats,
)
from cifarfast.kernels.batch_norm_act.cases import with_gaps
from cifarfast.kernels.check import assert_matches
from cifarfast.kernels.spec import Maker, OpSpec

SETTINGS = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _draw(seed: int, device: str, c: int = 8, k: int = 16, h: int = 4, w: int = 3, size: int = 3) -> dict[str, Tensor]:
    make = Maker(torch.float32, device, seed)
    return {
        "x": make.randn(2, c, h, w).requires_grad_(),
        "conv_weight": make.randn(k, c, size, size, scale=0.1).requires_grad_(),
        "running_mean": make.randn(c),
        "running_var": make.rand(c) + 0.5,
        "weight": (make.randn(c, scale=0.3) + 1).requires_grad_(),
        "bias": make.randn(c, scale=0.3).requires_grad_(),
    }


def _leaves(inputs: dict[str, Tensor]) -> list[Tensor]:
    return [inputs[name] for name in ("x", "conv_weight", "weight", "bias")]


@SETTINGS
@given(
    seed=st.integers(0, 100),
    size=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    training=st.booleans(),
    act=st.sampled_from(["silu", "identity", "sigmoid"]),
)
def test_fused_equals_composed(
    seed: int,
    size: int,
    stride: int,
    padding: int,
    training: bool,
    act: str,
    spec: OpSpec,
    backend_name: str,
    implementation: str,
) -> None:
    inputs = _draw(seed, implementation, size=size)
    options = {"training": training, "act": act, "eps": 0.1}
    geometry = {"stride": stride, "padding": padding}
    fused_inputs = {name: value.clone() if "running" in name else value for name, value in inputs.items()}
    fused = bn_act_conv2d(**fused_inputs, **geometry, **options)
    conv_weight = inputs["conv_weight"]
    bn = {name: value for name, value in inputs.items() if name != "conv_weight"}
    composed = F.conv2d(batch_norm_act(**bn, **options), conv_weight, **geometry)
    torch.testing.assert_close(fused, composed, rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(fused_inputs[name], inputs[name])
    leaves, cotangent = _leaves(inputs), torch.ones_like(fused)
    for a, b in zip(
        torch.autograd.grad(fused, leaves, cotangent), torch.autograd.grad(composed, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_statistics_of_the_convolution_before(spec: OpSpec, backend_name: str, implementation: str) -> None:
    first, second = _draw(0, implementation, k=8), _draw(1, implementation, k=8)

    def block(given: bool) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, var = conv2d_stats(first["x"], first["conv_weight"], padding=1)
        inputs = {name: value.clone() for name, value in second.items() if name != "x"}
        statistics = (mean, var) if given else None
        out, out_mean, _ = bn_act_conv2d_stats(y, **inputs, training=True, statistics=statistics, act="silu")
        return out, out_mean, inputs["running_var"]

    chained, separate = block(True), block(False)
    for a, b in zip(chained, separate, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    leaves = [first["x"], first["conv_weight"], second["weight"], second["conv_weight"]]
    gradients = [torch.autograd.grad((out.square().sum() + mean.sum()), leaves) for out, mean, _ in (chained, separate)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def _norm(channels: int, device: str, momentum: float | None = 0.3, *, dtype: torch.dtype | None = None) -> nn.Module:
    make = Maker(torch.float32, device, 7)
    norm = nn.BatchNorm2d(channels, 1e-3, momentum, device=device, dtype=dtype)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(make.rand(channels) + 0.5)
    return norm


BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _arguments_of(norm: nn.Module) -> dict[str, Any]:
    return {name: getattr(norm, name) for name in (*BUFFERS, "weight", "bias", "momentum", "eps")}


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("op", [bn_act_conv2d_for_norm, fork_bn_act_conv2d_for_norm])
def test_statistics_for_the_norm_after(
    op: Any, momentum: float | None, spec: OpSpec, backend_name: str, implementation: str
) -> None:
    """Two batches: the output, what the next batch norm makes of it, its running statistics and all gradients are those
    of torch's modules, and who takes the statistics does not update again."""
    first, second = _draw(0, implementation, k=16, h=9, w=8), _draw(1, implementation, c=16, k=8)
    found = []
    for fused in (True, False):
        norm = _norm(16, implementation, momentum)
        inputs = {name: value.clone() if "running" in name else value for name, value in first.items()}
        shortcut, leaves = first["x"], [*_leaves(first), second["conv_weight"], norm.weight, norm.bias]
        for batch in range(2):
            if fused:
                *forked, y, statistics = op(**inputs, training=True, padding=1, next_norm=norm)
                assert (statistics is None) == (backend_name == "torch")
                assert norm.num_batches_tracked.item() == batch + (backend_name != "torch")
                shortcut = forked[0] if forked else shortcut
                settings = {**_arguments_of(norm), "statistics": statistics}
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


def test_statistics_for_the_norm_after_are_those_of_the_rounded_output(
    dtype: torch.dtype, spec: OpSpec, backend_name: str, implementation: str
) -> None:
    """With a mean far from zero too; buffers may have its dtype; there are more tiles than one program joins."""
    if backend_name == "torch":
        pytest.skip("the op that normalises has them")
    make = Maker(dtype, implementation)
    x, conv_weight = make.randn(2, 8, 33, 33), make.randn(8, 8, 1, 1, scale=1e-2)
    x[:, 0], conv_weight[:, 0] = 100.0, 1.0
    norm = _norm(8, implementation, 1.0, dtype=dtype)
    parameters = {"running_mean": x.new_zeros(8), "running_var": x.new_ones(8), "act": "identity", "eps": 0.0}
    y, statistics = bn_act_conv2d_for_norm(x, conv_weight, **parameters, next_norm=norm)
    var, mean = torch.var_mean(y.double(), dim=(0, 2, 3), correction=0)
    assert statistics.shape == (3, 8)
    assert statistics.dtype == torch.float32
    found = statistics[0].double() + statistics[1].double()
    torch.testing.assert_close(found, mean, rtol=3 * 2**-24, atol=1e-8)
    torch.testing.assert_close(statistics[2].double(), 1 / (var + 1e-3).sqrt(), rtol=1e-5, atol=0)
    m = y.numel() // 8
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-6 if dtype == torch.float32 else 4e-3, atol=0)
    torch.testing.assert_close(norm.running_var.double(), var * m / (m - 1), rtol=4e-3, atol=0)


@pytest.mark.parametrize("op", [bn_act_conv2d_for_norm, fork_bn_act_conv2d_for_norm])
def test_the_norm_after_counts_once(op: Any, spec: OpSpec, backend_name: str, implementation: str) -> None:
    """However many blocks of channels there are; without tracking, as in a SAM step's second pass, nothing moves."""
    inputs = _draw(8, implementation, k=264, size=1)
    norm, second = _norm(264, implementation), _draw(9, implementation, c=264, size=1)["conv_weight"]
    for tracks in (True, False):
        norm.track_running_stats = tracks
        before = [norm.running_mean.clone(), norm.running_var.clone()]
        y, statistics = op(**inputs, training=True, next_norm=norm)[-2:]
        own = _arguments_of(norm) if tracks else {**_arguments_of(norm), **dict.fromkeys(BUFFERS)}
        z = bn_act_conv2d(y, second, **own, statistics=statistics, training=True, act="identity")
        assert norm.num_batches_tracked.item() == 1
        assert torch.equal(norm.running_mean, before[0]) != tracks
        assert torch.equal(norm.running_var, before[1]) != tracks
        expected = F.conv2d(F.batch_norm(y, None, None, norm.weight, norm.bias, True, 0.0, norm.eps), second)
        torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-3)


def test_given_statistics_move_nothing(spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = _draw(10, implementation)
    var, mean = torch.var_mean(inputs["x"].detach(), dim=(0, 2, 3), correction=0)
    statistics = torch.stack([mean, torch.zeros_like(mean), (var + 1e-5).rsqrt()])
    buffers = {name: inputs[name].clone() for name in ("running_mean", "running_var")}
    count = torch.tensor(3, device=implementation)
    settings = {"num_batches_tracked": count, "training": True, "padding": 1}
    y = bn_act_conv2d(**{**inputs, **buffers}, **settings, statistics=statistics)
    assert count.item() == 3
    assert all(torch.equal(buffers[name], inputs[name]) for name in buffers)
    torch.testing.assert_close(y, bn_act_conv2d(**inputs, **settings), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tracks", [True, False])
def test_for_norm_compiles_with_inductor(tracks: bool, spec: OpSpec, backend_name: str, implementation: str) -> None:
    first = {name: value.detach() for name, value in _draw(4, implementation).items()}
    second = _draw(5, implementation, c=16, k=8)["conv_weight"].detach()

    def unit(norm: nn.Module, x: Tensor) -> Tensor:
        y, statistics = bn_act_conv2d_for_norm(**{**first, "x": x}, training=True, padding=1, next_norm=norm)
        own = _arguments_of(norm) if tracks else {**_arguments_of(norm), **dict.fromkeys(BUFFERS)}
        return bn_act_conv2d(y, second, **own, training=True, statistics=statistics)

    torch.compiler.reset()
    results = []
    for run in (torch.compile(unit, fullgraph=True), unit):
        norm = _norm(16, implementation)
        norm.track_running_stats = tracks
        results.append([run(norm, first["x"]), norm.running_mean, norm.running_var, norm.num_batches_tracked])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_opcheck_for_the_norm_after(spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = {name: value.detach() for name, value in _draw(0, implementation).items()}
    x, conv_weight, mean, var, weight, bias = inputs.values()
    statistics = torch.stack([mean, torch.zeros_like(mean), var.rsqrt()])
    settings = (True, "relu", 0.0, 1, 1)
    count = torch.tensor(3, device=implementation)
    buffers = (torch.zeros(16, device=implementation), torch.ones(16, device=implementation), count)
    op = torch.ops.cifarfast.bn_act_conv2d_for_norm.default
    for momentum in (0.1, None):
        arguments = (x, conv_weight, statistics, weight, bias, *settings, *buffers, momentum, 1e-5)
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("op", [bn_act_conv2d_for_norm, fork_bn_act_conv2d_for_norm])
def test_for_norm_compiles_fullgraph(op: Any, spec: OpSpec, backend_name: str, implementation: str) -> None:
    first = {name: value.detach() for name, value in _draw(4, implementation).items()}
    second = _draw(5, implementation, c=16, k=8)["conv_weight"].detach()

    def unit(norm: nn.Module, x: Tensor) -> Tensor:
        *_, y, statistics = op(**{**first, "x": x}, training=True, padding=1, next_norm=norm)
        return bn_act_conv2d(y, second, **_arguments_of(norm), training=True, statistics=statistics)

    torch.compiler.reset()
    results = []
    for run in (torch.compile(unit, fullgraph=True, backend="aot_eager"), unit):
        norm, x = _norm(16, implementation), first["x"].clone().requires_grad_()
        z = run(norm, x)
        assert norm.num_batches_tracked.item() == 1
        results.append([z, norm.running_mean, norm.running_var, torch.autograd.grad(z.square().sum(), x)[0]])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_second_derivative(spec: OpSpec, backend_name: str, implementation: str) -> None:
    if backend_name == "torch":
        pytest.skip("plain torch has it")
    inputs = _draw(3, implementation)
    after = {"next_norm": _norm(16, implementation)}
    for op, more in (
        (bn_act_conv2d, {}),
        (bn_act_conv2d_for_norm, after),
        (fork_bn_act_conv2d_for_norm, after),
    ):
        result = op(**inputs, training=True, padding=1, **more)
        y = result if isinstance(result, Tensor) else result[-2]
        (gradient,) = torch.autograd.grad(y.square().sum(), inputs["x"], create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.square().sum().backward()


def test_relu_masks_an_infinite_gradient(spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = {**_draw(6, implementation, size=1), "running_mean": torch.zeros(8, device=implementation)}
    leaves = _leaves(inputs)
    results = []
    for fused in (True, False):
        if fused:
            y = bn_act_conv2d(**inputs)
        else:
            bn = {name: value for name, value in inputs.items() if name != "conv_weight"}
            y = F.conv2d(batch_norm_act(**bn), inputs["conv_weight"])
        cotangent = torch.zeros_like(y)
        cotangent[0, 0, 1, 1] = torch.inf
        results.append(torch.autograd.grad(y, [leaves[0], *leaves[2:]], cotangent))
    masked = results[0][0] == 0
    assert masked[0, :, 1, 1].any()
    assert not masked[0, :, 1, 1].all()
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_sums_over_groups_of_tiles(spec: OpSpec, backend_name: str, implementation: str) -> None:
    """Gradients of BN's weight and bias are summed over more tiles than one program joins."""
    inputs = _draw(0, implementation, h=33, w=33, size=1)
    leaves = [inputs["weight"], inputs["bias"], inputs["x"]]
    y = bn_act_conv2d(**inputs, training=True, act="silu")
    cotangent = Maker(torch.float32, implementation, 1).randn(*y.shape)
    conv_weight = inputs["conv_weight"]
    bn = {name: value for name, value in inputs.items() if name != "conv_weight"}
    composed = F.conv2d(batch_norm_act(**bn, training=True, act="silu"), conv_weight)
    for a, b in zip(
        torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(composed, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("training", "act"), [(True, "relu"), (True, "identity"), (False, "silu")])
def test_fork_adds_both_gradients(
    training: bool, act: str, spec: OpSpec, backend_name: str, implementation: str
) -> None:
    inputs = _draw(2, implementation)
    options = {"padding": 1, "training": training, "act": act}

    def block(forked: bool) -> tuple[Tensor, list[Tensor]]:
        arguments = {name: value.clone() if "running" in name else value for name, value in inputs.items()}
        shortcut, op = inputs["x"], fork_bn_act_conv2d_stats if forked else bn_act_conv2d_stats
        results = list(op(**arguments, **options))
        if forked:
            shortcut = results.pop(0)
        return shortcut, [*results, arguments["running_mean"], arguments["running_var"]]

    leaves, gradients = _leaves(inputs), []
    (shortcut, results), (x, expected) = block(True), block(False)
    torch.testing.assert_close(shortcut, x, rtol=0, atol=0)
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for first, (y, mean, var, *_) in ((shortcut, results), (x, expected)):
        wide = torch.cat([first, first[:, :4]], 1)  # whose gradient has gaps between its rows
        loss = (wide * 3).square().sum() + y.square().sum() + mean.sum() + var.sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_fork_with_a_gradient_for_one_result(spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = _draw(3, implementation)
    shortcut, y, _, _ = fork_bn_act_conv2d_stats(**inputs, training=True)
    (gradient,) = torch.autograd.grad(shortcut.sum(), inputs["x"], retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    plain = {name: value.clone() if "running" in name else value for name, value in inputs.items()}
    expected = torch.autograd.grad(bn_act_conv2d(**plain, training=True).square().sum(), _leaves(inputs))
    for a, b in zip(torch.autograd.grad(y.square().sum(), _leaves(inputs)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_fork_compiles_fullgraph(spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = {name: value.detach() for name, value in _draw(4, implementation).items()}
    expected = fork_bn_act_conv2d_stats(**inputs)
    torch.compiler.reset()
    compiled = torch.compile(fork_bn_act_conv2d_stats, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(**inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    x = inputs["x"].clone().requires_grad_()
    inputs["x"] = x
    shortcut, y, _, _ = compiled(**inputs)
    (gradient,) = torch.autograd.grad(shortcut.sum() + y.square().sum(), x)
    shortcut, y, _, _ = fork_bn_act_conv2d_stats(**inputs)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(shortcut.sum() + y.square().sum(), x)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sample", ["3x3", "stride 2", "eval"])
def test_parameters_with_gaps(sample: str, spec: OpSpec, backend_name: str, implementation: str) -> None:
    assert_matches(spec, with_gaps(spec.cases[sample])(Maker(torch.float32, implementation)))


def test_padded_pixels_are_zero(spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = _draw(0, implementation)
    inputs["bias"] = torch.full_like(inputs["bias"], 50.0)
    y = bn_act_conv2d(**inputs, padding=1, act="relu")
    scale = (inputs["weight"] / (inputs["running_var"] + 1e-5).sqrt())[:, None, None]
    z = F.relu((inputs["x"] - inputs["running_mean"][:, None, None]) * scale + 50.0)
    torch.testing.assert_close(y, F.conv2d(z, inputs["conv_weight"], padding=1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["x", "conv_weight", "weight", "bias"])
def test_gradient_only_where_needed(name: str, spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = spec.cases["3x3"](Maker(torch.float32, implementation))

    def gradients(*names: str) -> dict[str, Tensor]:
        leaves = {leaf: inputs[leaf].clone().requires_grad_() for leaf in names}
        y = torch.ops.cifarfast.bn_act_conv2d(*spec.op_arguments({**inputs, **leaves}))[0]
        y.square().sum().backward()
        return {leaf: value.grad for leaf, value in leaves.items()}

    torch.testing.assert_close(gradients(name)[name], gradients("x", "conv_weight", "weight", "bias")[name])


def test_module_equals_torchs(spec: OpSpec, backend_name: str, implementation: str) -> None:
    ours = BNActConv2d(8, 16, 3, stride=2, padding=1).to(implementation)
    bn, conv = nn.BatchNorm2d(8).to(implementation), nn.Conv2d(8, 16, 3, 2, 1, bias=False).to(implementation)
    torchs = nn.ModuleDict({"conv": conv, "bn": bn})
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 8, 5, 5, device=implementation)
    for training in (True, False):
        ours.train(training)
        torchs.train(training)
        torch.testing.assert_close(ours(x), conv(F.relu(bn(x))), rtol=1e-5, atol=1e-5)
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert ours.bn.num_batches_tracked.item() == 1


def test_module_takes_statistics_in_training_only() -> None:
    module = BNActConv2d(8, 8, 1, momentum=None)
    x = torch.randn(4, 8, 3, 3)
    statistics = (x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0))
    torch.testing.assert_close(module(x, statistics), module(x))
    assert module.bn.num_batches_tracked.item() == 2
    module.eval()
    torch.testing.assert_close(module(x, statistics), module(x))


def test_module_compiles_fullgraph() -> None:
    module = BNActConv2d(8, 8, 3, padding=1, act="silu")
    x = torch.randn(2, 8, 4, 4)
    expected = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)


def _arguments(**changes: object) -> dict[str, object]:
    arguments = {
        "x": torch.zeros(2, 8, 5, 5),
        "conv_weight": torch.zeros(16, 8, 3, 3),
        "running_mean": torch.zeros(8),
        "running_var": torch.ones(8),
    }
    return {**arguments, **changes}


ROW = torch.zeros(8)
WRONG = {
    "empty batch": (_arguments(x=torch.zeros(0, 8, 5, 5)), "x"),
    "12 channels": (_arguments(x=torch.zeros(2, 12, 5, 5)), "x"),
    "output channels": (_arguments(conv_weight=torch.zeros(12, 8, 3, 3)), "conv_weight"),
    "running_mean of the output": (_arguments(running_mean=torch.zeros(16)), "running_mean"),
    "one value": (_arguments(x=torch.zeros(1, 8, 1, 1), padding=1, training=True), "x"),
    "act": (_arguments(act="swish"), "act"),
    "bias alone": (_arguments(bias=ROW), "bias"),
    "statistics in eval": (_arguments(statistics=(ROW, ROW)), "statistics"),
    "one statistic": (_arguments(statistics=(ROW,), training=True), "statistics"),
    "shape of statistics": (_arguments(statistics=(ROW, torch.zeros(16)), training=True), "statistics"),
    "dtype of statistics": (_arguments(statistics=(ROW, ROW.half()), training=True), "statistics"),
    "layout of statistics": (_arguments(statistics=(ROW, ROW.to_sparse()), training=True), "statistics"),
    "shape of three": (_arguments(statistics=torch.zeros(3, 16), training=True), "statistics"),
    "gradient of statistics": (_arguments(statistics=torch.zeros(3, 8).requires_grad_(), training=True), "statistics"),
    "sparse x": (_arguments(x=torch.zeros(2, 8, 5, 5).to_sparse()), "x"),
    "sparse conv_weight": (_arguments(conv_weight=torch.zeros(16, 8, 3, 3).to_sparse()), "conv_weight"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_name_the_argument(mistake: str) -> None:
    arguments, name = WRONG[mistake]
    with pytest.raises(ValueError, match=rf"^{name} "):
        bn_act_conv2d(**arguments)


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
    for op in (bn_act_conv2d_for_norm, fork_bn_act_conv2d_for_norm):
        with pytest.raises(ValueError, match=f"^{message}"):
            op(**_arguments(), padding=1, training=True, next_norm=norm)
    with pytest.raises(ValueError, match="next_norm's input must have more than one value per channel"):
        bn_act_conv2d_for_norm(**_arguments(x=torch.zeros(1, 8, 3, 3)), training=True, next_norm=nn.BatchNorm2d(16))


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"in_channels": 12}, "in_channels"), ({"out_channels": 3}, "out_channels"), ({"kernel_size": 5}, "kernel_size")],
)
def test_module_mistakes(changes: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} "):
        BNActConv2d(**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, **changes})
