"""Properties, agreement with torch's modules, and errors of ``bn_act_conv2d``, beyond what its OpSpec generates."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from norm_inputs import arguments_of, draw_norm, draw_unit, leaves_of
from torch import Tensor, nn

from cifarfast.kernels import BNActConv2d, batch_norm_act, bn_act_conv2d, conv2d
from cifarfast.kernels.batch_norm.sample_inputs import with_gaps
from cifarfast.kernels.testing.check import assert_matches
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

SETTINGS = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
    seed: int, size: int, stride: int, padding: int, training: bool, act: str, implementation: str
) -> None:
    inputs = draw_unit(seed, implementation, size=size)
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
    leaves, cotangent = leaves_of(inputs), torch.ones_like(fused)
    for a, b in zip(
        torch.autograd.grad(fused, leaves, cotangent), torch.autograd.grad(composed, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_statistics_of_the_convolution_before(implementation: str) -> None:
    first, second = draw_unit(0, implementation, k=8), draw_unit(1, implementation, k=8)

    def block(given: bool) -> tuple[Tensor, nn.BatchNorm2d]:
        norm = draw_norm(8, implementation)
        y, statistics = conv2d(first["x"], first["conv_weight"], padding=1, next_norm=norm)
        if not given:
            norm, statistics = draw_norm(8, implementation), None
        options = {"training": True, "statistics": statistics, "act": "silu"}
        return bn_act_conv2d(y, second["conv_weight"], **arguments_of(norm), **options), norm

    (chained, norm), (separate, expected) = block(True), block(False)
    torch.testing.assert_close(chained, separate, rtol=1e-4, atol=1e-5)
    for a, b in zip(norm.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    leaves = [first["x"], first["conv_weight"], second["conv_weight"]]
    gradients = [
        torch.autograd.grad(out.square().sum(), [*leaves, unit.weight, unit.bias])
        for out, unit in ((chained, norm), (separate, expected))
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_given_statistics_move_nothing(implementation: str) -> None:
    inputs = draw_unit(10, implementation)
    var, mean = torch.var_mean(inputs["x"].detach(), dim=(0, 2, 3), correction=0)
    statistics = torch.stack([mean, torch.zeros_like(mean), (var + 1e-5).rsqrt()])
    buffers = {name: inputs[name].clone() for name in ("running_mean", "running_var")}
    count = torch.tensor(3, device=implementation)
    settings = {"num_batches_tracked": count, "training": True, "padding": 1}
    y = bn_act_conv2d(**{**inputs, **buffers}, **settings, statistics=statistics)
    assert count.item() == 3
    assert all(torch.equal(buffers[name], inputs[name]) for name in buffers)
    torch.testing.assert_close(y, bn_act_conv2d(**inputs, **settings), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [(), ("next_norm",), ("next_norm", "return_input")], ids="-".join)
def test_second_derivative(options: tuple[str, ...], implementation: str) -> None:
    inputs = draw_unit(3, implementation)
    values = {"next_norm": draw_norm(16, implementation), "return_input": True}
    result = bn_act_conv2d(**inputs, training=True, padding=1, **{name: values[name] for name in options})
    y = result[-2] if options else result
    (gradient,) = torch.autograd.grad(y.square().sum(), inputs["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()


def test_relu_masks_an_infinite_gradient(implementation: str) -> None:
    inputs = {**draw_unit(6, implementation, size=1), "running_mean": torch.zeros(8, device=implementation)}
    leaves = leaves_of(inputs)
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


def test_sums_over_groups_of_tiles(implementation: str) -> None:
    """Gradients of BN's weight and bias are summed over more tiles than one program joins."""
    inputs = draw_unit(0, implementation, h=33, w=33, size=1)
    leaves = [inputs["weight"], inputs["bias"], inputs["x"]]
    y = bn_act_conv2d(**inputs, training=True, act="silu")
    cotangent = SampleMaker(torch.float32, implementation, 1).randn(*y.shape)
    conv_weight = inputs["conv_weight"]
    bn = {name: value for name, value in inputs.items() if name != "conv_weight"}
    composed = F.conv2d(batch_norm_act(**bn, training=True, act="silu"), conv_weight)
    for a, b in zip(
        torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(composed, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("training", "act"), [(True, "relu"), (True, "identity"), (False, "silu")])
def test_fork_adds_both_gradients(training: bool, act: str, implementation: str) -> None:
    inputs = draw_unit(2, implementation)
    options = {"padding": 1, "training": training, "act": act}

    def block(forked: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        arguments = {name: value.clone() if "running" in name else value for name, value in inputs.items()}
        result = bn_act_conv2d(**arguments, **options, return_input=forked)
        shortcut, y = result if forked else (inputs["x"], result)
        return shortcut, y, [arguments["running_mean"], arguments["running_var"]]

    leaves, gradients = leaves_of(inputs), []
    (shortcut, y, buffers), (x, expected, expected_buffers) = block(True), block(False)
    for a, b in zip([shortcut, y, *buffers], [x, expected, *expected_buffers], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for first, result in ((shortcut, y), (x, expected)):
        wide = torch.cat([first, first[:, :4]], 1)  # whose gradient has gaps between its rows
        gradients.append(torch.autograd.grad((wide * 3).square().sum() + result.square().sum(), leaves))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_fork_with_a_gradient_for_one_result(implementation: str) -> None:
    inputs = draw_unit(3, implementation)
    shortcut, y = bn_act_conv2d(**inputs, training=True, return_input=True)
    (gradient,) = torch.autograd.grad(shortcut.sum(), inputs["x"], retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    plain = {name: value.clone() if "running" in name else value for name, value in inputs.items()}
    expected = torch.autograd.grad(bn_act_conv2d(**plain, training=True).square().sum(), leaves_of(inputs))
    for a, b in zip(torch.autograd.grad(y.square().sum(), leaves_of(inputs)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_fork_compiles_fullgraph(implementation: str) -> None:
    inputs = {name: value.detach() for name, value in draw_unit(4, implementation).items()}

    def fork(x: Tensor) -> Any:
        return bn_act_conv2d(**{**inputs, "x": x}, return_input=True)

    torch.compiler.reset()
    compiled = torch.compile(fork, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(inputs["x"]), fork(inputs["x"]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    x, gradients = inputs["x"].clone().requires_grad_(), []
    for run in (compiled, fork):
        shortcut, y = run(x)
        gradients.append(torch.autograd.grad(shortcut.sum() + y.square().sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sample", ["3x3", "stride 2", "eval"])
def test_parameters_with_gaps(sample: str, spec: OpSpec, implementation: str) -> None:
    assert_matches(spec, with_gaps(spec.cases[sample])(SampleMaker(torch.float32, implementation)))


def test_padded_pixels_are_zero(implementation: str) -> None:
    inputs = draw_unit(0, implementation)
    inputs["bias"] = torch.full_like(inputs["bias"], 50.0)
    y = bn_act_conv2d(**inputs, padding=1, act="relu")
    scale = (inputs["weight"] / (inputs["running_var"] + 1e-5).sqrt())[:, None, None]
    z = F.relu((inputs["x"] - inputs["running_mean"][:, None, None]) * scale + 50.0)
    torch.testing.assert_close(y, F.conv2d(z, inputs["conv_weight"], padding=1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["x", "conv_weight", "weight", "bias"])
def test_gradient_only_where_needed(name: str, spec: OpSpec, implementation: str) -> None:
    inputs = spec.cases["3x3"](SampleMaker(torch.float32, implementation))

    def gradients(*names: str) -> dict[str, Tensor]:
        leaves = {leaf: inputs[leaf].clone().requires_grad_() for leaf in names}
        bn_act_conv2d(**{**inputs, **leaves}).square().sum().backward()
        return {leaf: value.grad for leaf, value in leaves.items()}

    torch.testing.assert_close(gradients(name)[name], gradients("x", "conv_weight", "weight", "bias")[name])


def test_module_equals_torchs(implementation: str) -> None:
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
    mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
    statistics = torch.stack([mean, torch.zeros_like(mean), (var + 1e-5).rsqrt()])
    torch.testing.assert_close(module(x, statistics), module(x))
    assert module.bn.num_batches_tracked.item() == 1  # who makes statistics counts
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
    "statistics in eval": (_arguments(statistics=torch.zeros(3, 8)), "statistics"),
    "shape of statistics": (_arguments(statistics=torch.zeros(3, 16), training=True), "statistics"),
    "dtype of statistics": (_arguments(statistics=torch.zeros(3, 8).half(), training=True), "statistics"),
    "layout of statistics": (_arguments(statistics=torch.zeros(3, 8).to_sparse(), training=True), "statistics"),
    "gradient of statistics": (_arguments(statistics=torch.zeros(3, 8).requires_grad_(), training=True), "statistics"),
    "sparse x": (_arguments(x=torch.zeros(2, 8, 5, 5).to_sparse()), "x"),
    "sparse conv_weight": (_arguments(conv_weight=torch.zeros(16, 8, 3, 3).to_sparse()), "conv_weight"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_name_the_argument(mistake: str) -> None:
    arguments, name = WRONG[mistake]
    with pytest.raises(ValueError, match=rf"^{name} "):
        bn_act_conv2d(**arguments)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"in_channels": 12}, "in_channels"), ({"out_channels": 3}, "out_channels"), ({"kernel_size": 5}, "kernel_size")],
)
def test_module_mistakes(changes: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} "):
        BNActConv2d(**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, **changes})
