"""Properties, agreement with torch's modules, and errors of ``conv2d_bn_act``, beyond what its OpSpec generates."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cifarfast.kernels import ConvBNAct2d, conv2d_bn_act
from cifarfast.kernels.batch_norm.norm import Norm
from cifarfast.kernels.batch_norm.sample_inputs import given_statistics, with_gaps
from cifarfast.kernels.convolution.arguments import Convolution
from cifarfast.kernels.convolution.conv2d_bn_act import op
from cifarfast.kernels.convolution.sample_inputs import next_state
from cifarfast.kernels.testing.check import assert_matches
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

SETTINGS = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(
    seed=st.integers(0, 100),
    size=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    act=st.sampled_from(["relu", "silu", "identity", "sigmoid"]),
)
def test_eval_equals_folded(seed: int, size: int, stride: int, padding: int, act: str, implementation: str) -> None:
    make = SampleMaker(torch.float32, implementation, seed)
    inputs = {
        "x": make.randn(2, 8, 4, 3),
        "conv_weight": make.randn(16, 8, size, size, scale=0.1),
        "running_mean": make.randn(16),
        "running_var": make.rand(16) + 0.5,
        "weight": make.randn(16),
        "bias": make.randn(16),
    }
    options = {"stride": stride, "padding": padding, "act": act}
    with torch.no_grad():
        folded = conv2d_bn_act(**inputs, **options)
    separate = conv2d_bn_act(**{**inputs, "x": inputs["x"].requires_grad_()}, **options)
    torch.testing.assert_close(folded, separate, rtol=1e-5, atol=1e-5)
    # and the textbook's fold, into the weight
    scale = inputs["weight"] / (inputs["running_var"] + 1e-5).sqrt()
    weight = inputs["conv_weight"] * scale[:, None, None, None]
    bias = inputs["bias"] - inputs["running_mean"] * scale
    z = F.conv2d(inputs["x"], weight, bias, stride=stride, padding=padding)
    functions = {"relu": F.relu, "silu": F.silu, "identity": lambda z: z, "sigmoid": torch.sigmoid}
    torch.testing.assert_close(folded, functions[act](z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 8, 5, 5), (2, 8, 8, 8)], ids=["runs", "boxes"])
def test_fold_in_half_precision(shape: tuple[int, ...], spec: OpSpec, implementation: str) -> None:
    make = SampleMaker(torch.float16, implementation)
    inputs = spec.cases["eval"](make) | {"x": make.randn(*shape)}
    inputs["residual"] = make.randn(shape[0], inputs["conv_weight"].shape[0], *shape[2:])
    norm = Norm(given_statistics(inputs), inputs["weight"], inputs["bias"], False, "sigmoid", 0.0)
    folded = op.folded(inputs["x"], inputs["conv_weight"], norm, inputs["residual"], Convolution(1, 1))
    exact = {name: value.double() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    expected = spec.reference(**exact, training=False, padding=1, act="sigmoid")
    torch.testing.assert_close(folded.double(), expected, rtol=2e-3, atol=2e-3)


def test_opcheck_of_the_other_ops(spec: OpSpec, implementation: str) -> None:
    inputs = spec.cases["eval"](SampleMaker(torch.float32, implementation))
    x, conv_weight, weight, bias = (inputs[name] for name in ("x", "conv_weight", "weight", "bias"))
    affine = (given_statistics(inputs), weight, bias)
    y = F.conv2d(x, conv_weight, padding=1).contiguous(memory_format=torch.channels_last)
    state = next_state(inputs)
    buffers = (state.running_mean, state.running_var, state.num_batches_tracked)
    ops = torch.ops.cifarfast
    for tensor in (None, y):
        folded = (x, conv_weight, *affine, False, "relu", 0.0, tensor, 1, 1)
        torch.library.opcheck(ops.conv2d_bn_act_folded.default, folded)
        backward = (x, conv_weight, y, y, *affine, True, "relu", 0.0, tensor, 1, 1, True, True)
        torch.library.opcheck(ops.conv2d_bn_act_backward.default, backward)
        for momentum in (0.1, None):
            forward = (x, conv_weight, *affine, True, "relu", 0.0, tensor, *buffers, momentum, 1e-5, 1, 1)
            torch.library.opcheck(ops.conv2d_bn_act.default, forward, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sample", ["3x3", "residual silu stride 2", "eval"])
def test_parameters_with_gaps(sample: str, spec: OpSpec, implementation: str) -> None:
    case = spec.cases[sample]
    assert_matches(spec, with_gaps(case)(SampleMaker(torch.float32, implementation)))
    with torch.no_grad():  # in eval the batch norm is folded
        found, expected = (
            conv2d_bn_act(**c(SampleMaker(torch.float32, implementation))) for c in (with_gaps(case), case)
        )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["x", "conv_weight", "weight", "bias", "residual"])
@pytest.mark.parametrize("kind", ["residual", "residual identity"])
def test_gradient_only_where_needed(name: str, kind: str, spec: OpSpec, implementation: str) -> None:
    inputs = spec.cases[kind](SampleMaker(torch.float32, implementation))

    def gradients(*names: str) -> dict[str, Tensor]:
        leaves = {leaf: inputs[leaf].clone().requires_grad_() for leaf in names}
        conv2d_bn_act(**{**inputs, **leaves}).square().sum().backward()
        return {leaf: value.grad for leaf, value in leaves.items()}

    torch.testing.assert_close(gradients(name)[name], gradients(*spec.differentiable)[name])


@pytest.mark.parametrize("momentum", [0.3, None])
def test_module_equals_torchs(momentum: float | None, implementation: str) -> None:
    options = {"momentum": momentum, "eps": 1e-3}
    ours = ConvBNAct2d(8, 16, 3, padding=1, act="silu", **options).to(implementation)
    conv, bn = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, **options)
    torchs = nn.ModuleDict({"conv": conv, "bn": bn}).to(implementation)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    torchs.load_state_dict(ours.state_dict())
    for training in (True, True, False):
        x = torch.randn(2, 8, 4, 3, device=implementation)
        ours.train(training)
        torchs.train(training)
        residual = None if training else torch.randn(2, 16, 4, 3, device=implementation)
        a, b = ours(x, residual), F.silu(bn(conv(x)) + (0 if residual is None else residual))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        a.square().sum().backward()
        b.square().sum().backward()
    for (name, p), q in zip(ours.named_parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4, msg=name)
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_counts_once(implementation: str) -> None:
    """However many blocks of channels there are."""
    make = SampleMaker(torch.float32, implementation)
    x, conv_weight = make.randn(2, 8, 4, 4), make.randn(264, 8, 1, 1)
    count = torch.tensor(3, device=implementation)
    buffers = (torch.zeros(264, device=implementation), torch.ones(264, device=implementation))
    for batch in range(2):
        conv2d_bn_act(x, conv_weight, *buffers, num_batches_tracked=count, training=True)
        assert count.item() == 4 + batch


def test_module_without_running_statistics() -> None:
    module = ConvBNAct2d(8, 8, 1, track_running_stats=False, affine=False).eval()
    x = torch.randn(3, 8, 2, 2)
    torch.testing.assert_close(module(x), F.relu(F.batch_norm(module.conv(x), None, None, training=True)))


def test_module_compiles_fullgraph() -> None:
    module = ConvBNAct2d(8, 8, 3, padding=1)
    x = torch.randn(2, 8, 4, 4)
    for training in (True, False):
        torch.compiler.reset()
        module.train(training)
        expected = module(x)
        torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))


def _arguments(**changes: object) -> dict[str, object]:
    arguments = {
        "x": torch.zeros(2, 8, 5, 5),
        "conv_weight": torch.zeros(16, 8, 3, 3),
        "running_mean": torch.zeros(16),
        "running_var": torch.ones(16),
    }
    return {**arguments, **changes}


WRONG = {
    "empty batch": (_arguments(x=torch.zeros(0, 8, 5, 5)), "x"),
    "12 channels": (_arguments(x=torch.zeros(2, 12, 5, 5)), "x"),
    "weight of the input": (_arguments(weight=torch.zeros(8), bias=torch.zeros(8)), "weight"),
    "running_var of the input": (_arguments(running_var=torch.zeros(8)), "running_var"),
    "running_mean missing": (_arguments(running_mean=None, running_var=None), "running_mean"),
    "one value": (_arguments(x=torch.zeros(1, 8, 3, 3), training=True), "x"),
    "mixed devices": (_arguments(running_mean=torch.zeros(16, device="meta")), "running_mean"),
    "eps": (_arguments(eps=-1.0), "eps"),
    "stride": (_arguments(stride=0), "stride"),
    "residual of the input": (_arguments(residual=torch.zeros(2, 8, 5, 5)), "residual"),
    "residual's dtype": (_arguments(residual=torch.zeros(2, 16, 3, 3, dtype=torch.float16)), "residual"),
    "sparse x": (_arguments(x=torch.zeros(2, 8, 5, 5).to_sparse()), "x"),
    "sparse conv_weight": (_arguments(conv_weight=torch.zeros(16, 8, 3, 3).to_sparse()), "conv_weight"),
    "sparse residual": (_arguments(residual=torch.zeros(2, 16, 3, 3).to_sparse()), "residual"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_name_the_argument(mistake: str) -> None:
    arguments, name = WRONG[mistake]
    with pytest.raises(ValueError, match=rf"^{name} "):
        conv2d_bn_act(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"residual": torch.zeros(2, 8, 5, 5)},
            r"residual must have the shape of the convolution's result \[2, 16, 3, 3\], got \[2, 8, 5, 5\]",
        ),
        (
            {"x": torch.zeros(1, 8, 3, 3), "training": True},
            r"x must give the convolution's result more than one value per channel in training, "
            r"got \[1, 16, 1, 1\] of x \[1, 8, 3, 3\]",
        ),
        (
            {"running_var": torch.zeros(8)},
            r"running_var must be \[16\] for the convolution's result \[2, 16, 3, 3\], got \[8\]",
        ),
    ],
)
def test_mistakes_are_those_of_the_result(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        conv2d_bn_act(**_arguments(**changes))
