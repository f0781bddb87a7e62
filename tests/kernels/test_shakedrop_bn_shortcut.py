"""Agreement with separate modules, precision and errors of ``shakedrop_bn_shortcut``, beyond its OpSpec's tests."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from norm_inputs import draw_counters, draw_tail
from torch import Tensor, nn

from cifarfast.kernels import (
    ShakeDropTail,
    conv2d_stats,
    fork_batch_norm_act,
    global_avg_pool_act,
    shakedrop,
    shakedrop_bn_shortcut,
    shakedrop_bn_shortcut_for_norm,
    shakedrop_bn_shortcut_stats,
    share_randomness,
)
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker
from cifarfast.models.pyramidnet import PyramidBasicBlock

H, C = torch.zeros(2, 4, 3, 3), torch.ones(4)
SETTINGS = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _set_running(norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    generator = torch.Generator().manual_seed(2)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


@SETTINGS
@given(
    pool=st.booleans(),
    in_channels=st.sampled_from([1, 4, 8]),
    momentum=st.sampled_from([None, 0.0, 0.3]),
    training=st.booleans(),
    level=st.sampled_from(["batch", "image", "channel", "pixel"]),
)
def test_fused_equals_separate_modules(
    pool: bool,
    in_channels: int,
    momentum: float | None,
    training: bool,
    level: str,
    spec: OpSpec,
    backend_name: str,
    implementation: str,
) -> None:
    h, x = draw_tail(implementation, in_channels=in_channels, pool=pool)
    norm = nn.BatchNorm2d(8, momentum=momentum, device=implementation)
    _set_running(norm)
    tail = ShakeDropTail(8, 0.5, level=level, momentum=momentum, device=implementation)
    tail.load_state_dict(norm.state_dict())
    counters = draw_counters(implementation)
    share_randomness(tail, **counters)
    norm.train(training)
    tail.train(training)
    for _ in range(2):
        fused = tail(h, x)
        shortcut = F.pad(F.avg_pool2d(x, 2) if pool else x, (0, 0, 0, 0, 0, 8 - in_channels))
        separate = shakedrop(shortcut, norm(h), 0.5, training=training, level=level, **counters)
        torch.testing.assert_close(fused, separate, rtol=1e-5, atol=1e-5)
        cotangent = SampleMaker(torch.float32, implementation, 3).randn(*fused.shape)
        gradients = torch.autograd.grad(fused, (h, x, *tail.parameters()), cotangent)
        expected = torch.autograd.grad(separate, (h, x, *norm.parameters()), cotangent)
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(tail.get_buffer(name), buffer, rtol=1e-6, atol=1e-6)


def test_a_mean_far_from_zero_costs_no_digits(spec: OpSpec, backend_name: str, implementation: str) -> None:
    h, x = draw_tail(implementation)
    h = (h.detach() * 0.003 + 1000).requires_grad_()
    out = shakedrop_bn_shortcut(h, x, None, None, training=True)
    (gradient,) = torch.autograd.grad(out.square().sum(), h)
    h64 = h.detach().double().requires_grad_()
    out64 = shakedrop_bn_shortcut(h64, x.detach().double(), None, None, training=True)
    (gradient64,) = torch.autograd.grad(out64.square().sum(), h64)
    assert (out - out64).abs().max() < 1e-5
    assert (gradient - gradient64).abs().max() < 1e-4 * gradient64.abs().max()


def test_evaluation_is_the_mean_over_draws(spec: OpSpec, backend_name: str, implementation: str) -> None:
    draws = 20 if (backend_name, implementation) == ("triton", "cpu") else 1000
    h, x = draw_tail(implementation, pool=True)
    tail = ShakeDropTail(8, 0.7, device=implementation)
    counters = draw_counters(implementation)
    share_randomness(tail, **counters)
    outs = []
    for _ in range(draws):
        counters["step"].add_(1)
        outs.append(tail(h, x).detach())
    drawn = torch.stack(outs).double()
    tail.train(False)
    tail.running_mean, tail.running_var = h.detach().mean((0, 2, 3)), h.detach().var((0, 2, 3), correction=0)
    expected = tail(h, x)
    allowed = 6 * drawn.std(dim=0) / draws**0.5 + 1e-5
    assert ((drawn.mean(dim=0) - expected).abs() <= allowed).all()


@pytest.mark.parametrize("pool", [False, True])
def test_gradcheck_without_shakedrop(pool: bool) -> None:
    h, x = (tensor.detach()[:2].double().requires_grad_() for tensor in draw_tail("cpu", pool=pool))
    weight, bias = (SampleMaker(torch.float64, seed=seed).randn(8).requires_grad_() for seed in (4, 5))
    running = {"running_mean": torch.ones(8).double(), "running_var": torch.full((8,), 4.0).double()}
    none = {"running_mean": None, "running_var": None}
    for training, buffers, p in ((True, none, 1.0), (False, running, 0.3), (False, none, 0.3)):
        assert torch.autograd.gradcheck(
            lambda h, x, w, b, training=training, buffers=buffers, p=p: shakedrop_bn_shortcut(
                h, x, weight=w, bias=b, training=training, keep_probability=p, **buffers
            ),
            (h, x, weight, bias),
        )


@pytest.mark.parametrize(("stride", "survival"), [(1, None), (2, None), (2, 0.5)])
def test_replaces_the_end_of_a_pyramid_block(stride: int, survival: float | None) -> None:
    block = PyramidBasicBlock(8, 12, stride, survival)
    norm = block.branch[-1]
    _set_running(norm)
    tail = ShakeDropTail(12, survival or 1.0)
    tail.load_state_dict(norm.state_dict())
    x = SampleMaker(torch.float32).randn(3, 8, 7, 7)
    for training in (True, False) if survival is None else (False,):
        block.train(training)
        tail.train(training)
        torch.testing.assert_close(tail(block.branch[:-1](x), x), block(x), rtol=1e-4, atol=1e-5)


def test_state_dict_is_that_of_batch_norm() -> None:
    norm, tail = nn.BatchNorm2d(5), ShakeDropTail(5, 0.5, level="pixel")
    assert norm.state_dict().keys() == tail.state_dict().keys()
    norm.load_state_dict(tail.state_dict())
    assert "keep_probability=0.5, level='pixel'" in repr(tail)


def test_untracked_statistics() -> None:
    h, x = draw_tail("cpu")
    never = ShakeDropTail(8, 0.5, track_running_stats=False).eval()
    torch.testing.assert_close(never(h, x)[:, 4:], 0.5 * F.batch_norm(h, None, None, training=True)[:, 4:])
    paused = ShakeDropTail(8, 0.5)
    paused.track_running_stats = False
    paused(h, x)
    assert torch.equal(paused.running_mean, torch.zeros(8))
    assert paused.num_batches_tracked == 0


def test_module_compiles_fullgraph() -> None:
    torch.compiler.reset()
    h, x = draw_tail("cpu", pool=True)
    eager, compiled = ShakeDropTail(8, 0.5), ShakeDropTail(8, 0.5)
    step = torch.tensor(0)
    for module in (eager, compiled):
        share_randomness(module, torch.tensor(3), step)
    forward = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        out, expected = forward(h, x), eager(h, x)
        assert torch.equal(out, expected)
        gradients = torch.autograd.grad(out.square().sum(), (h, x, *compiled.parameters()))
        eager_gradients = torch.autograd.grad(expected.square().sum(), (h, x, *eager.parameters()))
        torch.testing.assert_close(gradients, eager_gradients, rtol=1e-5, atol=1e-5)
        step.add_(1)
    assert all(map(torch.equal, compiled.buffers(), eager.buffers()))


STATISTICS_CASES = ["image", "pooled", "pooled odd", "pixel", "channel", "no affine", "several programs"]
STATISTICS_CASES += ["without shakedrop, pooled", "one pixel", "padded channels", "mean far from zero"]


@pytest.mark.parametrize("name", STATISTICS_CASES)
def test_statistics_of_the_output(
    name: str,
    dtype: torch.dtype,
    spec: OpSpec,
    backend_name: str,
    implementation: str,
    poisoned_memory: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if backend_name == "triton":
        from cifarfast.kernels.shakedrop.shakedrop_bn_shortcut import triton_impl

        monkeypatch.setattr(triton_impl, "PROGRAMS", 2)  # some samples a program, the last with fewer
    inputs = spec.cases[name](SampleMaker(dtype, implementation))
    y, mean, var = shakedrop_bn_shortcut_stats(**inputs)
    again = shakedrop_bn_shortcut_stats(**inputs)
    assert all(map(torch.equal, (y, mean, var), again))
    torch.testing.assert_close(y, shakedrop_bn_shortcut(**inputs))
    assert mean.dtype == var.dtype == torch.float32
    true_var, true_mean = torch.var_mean(y.double(), dim=(0, 2, 3), correction=0)
    scale = y.double().square().mean(dim=(0, 2, 3)).sqrt() + 1e-30
    assert ((mean - true_mean).abs() <= 1e-6 * scale).all()
    assert ((var - true_var).abs() <= 1e-5 * true_var + (1e-6 * scale) ** 2).all()


@pytest.mark.parametrize("pool", [False, True])
def test_gradients_through_the_statistics(pool: bool, spec: OpSpec, backend_name: str, implementation: str) -> None:
    h, x = draw_tail(implementation, pool=pool)
    weight, bias = (SampleMaker(torch.float32, implementation, seed).randn(8).requires_grad_() for seed in (4, 5))
    leaves, arguments = (h, x, weight, bias), {"running_mean": None, "running_var": None, "training": True}
    y, mean, var = shakedrop_bn_shortcut_stats(h, x, weight=weight, bias=bias, **arguments)
    plain = shakedrop_bn_shortcut(h, x, weight=weight, bias=bias, **arguments)
    true_var, true_mean = torch.var_mean(plain, dim=(0, 2, 3), correction=0)
    for found, expected in (
        ((y * y).sum() + mean.sin().sum() + var.sin().sum(), (plain**2).sum() + true_mean.sin().sum()),
        (mean.sin().sum() + var.sin().sum(), true_mean.sin().sum()),
    ):
        gradients = torch.autograd.grad(found, leaves, retain_graph=True)
        true = torch.autograd.grad(expected + true_var.sin().sum(), leaves, retain_graph=True)
        torch.testing.assert_close(gradients, true, rtol=1e-3, atol=1e-4)


def test_statistics_are_handed_on(spec: OpSpec, backend_name: str, implementation: str) -> None:
    """From a convolution to the tail, from the tail to the next block's fork and to the pooling."""
    make = SampleMaker(torch.float32, implementation)
    leaves = [make.randn(3, 8, 3, 3), make.randn(8, 8, 3, 3, scale=0.1), make.rand(8) + 0.5, make.randn(8)]
    x, conv_weight, weight, bias = (leaf.requires_grad_() for leaf in leaves)

    def outputs(given: bool) -> list[Tensor]:
        running = [torch.full((8,), value, device=implementation) for value in (0.0, 1.0) * 3]
        affine = {"weight": weight, "bias": bias, "training": True}
        h, *moments = conv2d_stats(x, conv_weight, padding=1)
        settings = {"statistics": tuple(moments) if given else None, **affine}
        y, *moments = shakedrop_bn_shortcut_stats(h, x, running[0], running[1], **settings)
        settings = {"statistics": tuple(moments) if given else None, **affine}
        y, branch = fork_batch_norm_act(y, running[2], running[3], **settings)
        pooled = global_avg_pool_act(y, running[4], running[5], **settings)
        gradients = torch.autograd.grad((branch * y).sum() + pooled.sin().sum(), (x, conv_weight, weight, bias))
        return [y, branch, pooled, *running, *gradients]

    torch.testing.assert_close(outputs(True), outputs(False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", [fork_batch_norm_act, global_avg_pool_act])
def test_given_statistics_move_nothing(op: Any, spec: OpSpec, backend_name: str, implementation: str) -> None:
    x = SampleMaker(torch.float32, implementation, 12).randn(3, 8, 4, 4)
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    statistics = torch.stack([mean, torch.zeros_like(mean), (var + 1e-5).rsqrt()])
    buffers = [torch.full((8,), value, device=implementation) for value in (0.5, 2.0)]
    count = torch.tensor(3, device=implementation)
    settings = {"num_batches_tracked": count, "training": True}
    found = op(x, *buffers, **settings, statistics=statistics)
    assert count.item() == 3
    assert [buffer.unique().tolist() for buffer in buffers] == [[0.5], [2.0]]
    torch.testing.assert_close(found, op(x, *buffers, **settings), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", [shakedrop_bn_shortcut, fork_batch_norm_act, global_avg_pool_act])
@pytest.mark.parametrize(
    ("statistics", "training", "message"),
    [
        ((C, C), False, "statistics must be None when training is False"),
        ((C,), True, "statistics must be mean and variance, got 1 tensors"),
        ((C, C[:3]), True, r"statistics must be two of \[4\] torch.float32 on cpu, got \[3\]"),
        ((C, C.half()), True, r"statistics must be two of \[4\] torch.float32 on cpu, got \[4\] torch.float16"),
        (
            torch.ones(2, 4),
            True,
            r"statistics must be mean and variance, or \[3, 4\] torch.float32 on cpu, got \[2, 4\]",
        ),
    ],
)
def test_wrong_statistics(op: Any, statistics: tuple[Tensor, ...] | Tensor, training: bool, message: str) -> None:
    inputs = (H, H) if op is shakedrop_bn_shortcut else (H,)
    with pytest.raises(ValueError, match=message):
        op(*inputs, C, C, training=training, statistics=statistics)


@pytest.mark.parametrize("name", ["image", "pooled odd", "no affine"])
def test_backward_op(name: str, spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs: Inputs = spec.cases[name](SampleMaker(torch.float32, implementation))
    h, x, stats, weight, _, by_batch, *scale, _with_moments = spec.op_arguments(inputs)
    in_shape = list(x.shape) if x.shape[2:] != h.shape[2:] else None
    arguments = (torch.ones_like(h), h, stats, weight, in_shape, by_batch, *scale)
    torch.library.opcheck(torch.ops.cifarfast.shakedrop_bn_shortcut_backward.default, arguments)


def test_second_derivative(spec: OpSpec, backend_name: str, implementation: str) -> None:
    h, x = draw_tail(implementation)
    norm = nn.BatchNorm2d(8, device=implementation)
    outputs = [shakedrop_bn_shortcut(h, x, None, None, training=True)]
    outputs.append(shakedrop_bn_shortcut_for_norm(h, x, None, None, training=True, next_norm=norm)[0])
    for out in outputs:
        (gradient,) = torch.autograd.grad(out.square().sum(), h, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.square().sum().backward()


def test_gradient_accumulates_and_backward_repeats(spec: OpSpec, backend_name: str, implementation: str) -> None:
    h, x = draw_tail(implementation, in_channels=8)
    out = shakedrop_bn_shortcut(h, x, None, None, training=True)
    cotangent = torch.ones_like(out)
    out.backward(cotangent, retain_graph=True)
    assert h.grad is not None
    assert x.grad is not None
    once = h.grad.clone()
    out.backward(cotangent)
    assert torch.equal(h.grad, 2 * once)
    assert torch.equal(x.grad, 2 * cotangent)
    assert torch.equal(cotangent, torch.ones_like(cotangent))


WRONG = {
    "empty batch": ({"h": H[:0], "x": H[:0]}, "h"),
    "three dimensions": ({"h": H[0]}, "h"),
    "integers": ({"h": H.long()}, "h"),
    "one value": ({"h": H[:1, :, :1, :1], "x": H[:1, :, :1, :1]}, "h"),
    "x batch": ({"x": H[:1]}, "x"),
    "x dtype": ({"x": H.half()}, "x"),
    "x device": ({"x": H.to("meta")}, "x"),
    "x channels": ({"x": torch.zeros(2, 5, 3, 3)}, "x"),
    "x side": ({"x": torch.zeros(2, 4, 7, 6)}, "x"),
    "x sides": ({"x": torch.zeros(2, 4, 3, 6)}, "x"),
    "running_mean alone": ({"running_mean": C}, "running_var"),
    "running_mean shape": ({"running_mean": C[:3], "running_var": C}, "running_mean"),
    "running_var with gaps": ({"running_mean": C, "running_var": torch.ones(8)[::2]}, "running_var"),
    "weight alone": ({"weight": C}, "bias"),
    "weight dtype": ({"weight": C.double(), "bias": C}, "weight"),
    "bias device": ({"weight": C, "bias": C.to("meta")}, "bias"),
    "count": ({"num_batches_tracked": torch.zeros(1)}, "num_batches_tracked"),
    "count device": (
        {"num_batches_tracked": torch.zeros((), dtype=torch.int64, device="meta")},
        "num_batches_tracked",
    ),
    "cumulative": ({"running_mean": C, "running_var": C, "momentum": None}, "num_batches_tracked"),
    "momentum": ({"momentum": 2.0}, "momentum"),
    "eps": ({"eps": -1.0}, "eps"),
    "probability": ({"keep_probability": -1.0}, "keep_probability"),
    "seed": ({"seed": torch.zeros(())}, "seed"),
    "indices": ({"indices": torch.arange(3)}, "indices"),
    "no true channels": ({"true_channels": 0}, "true_channels"),
    "true channels": ({"true_channels": 5}, "true_channels"),
    "sparse h": ({"h": H.to_sparse()}, "h"),
    "sparse x": ({"x": H.to_sparse()}, "x"),
    "sparse bias": ({"weight": C, "bias": C.to_sparse()}, "bias"),
    "sparse count": ({"num_batches_tracked": torch.tensor(0).to_sparse()}, "num_batches_tracked"),
    "layer": ({"layer": 2.5}, "layer"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_name_the_argument(mistake: str) -> None:
    changes, name = WRONG[mistake]
    with pytest.raises(ValueError, match=rf"^{name} "):
        shakedrop_bn_shortcut(
            **{"h": H, "x": H, "running_mean": None, "running_var": None, "training": True, **changes}
        )
