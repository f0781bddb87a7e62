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
    batch_norm_act,
    global_avg_pool_act,
    shakedrop,
    shakedrop_bn_shortcut,
    share_randomness,
)
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker
from cifarfast.models.pyramidnet import PyramidBasicBlock

H, C, STATISTICS = torch.zeros(2, 4, 3, 3), torch.ones(4), torch.ones(3, 4)
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
    pool: bool, in_channels: int, momentum: float | None, training: bool, level: str, implementation: str
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


def test_a_mean_far_from_zero_costs_no_digits(implementation: str) -> None:
    h, x = draw_tail(implementation)
    h = (h.detach() * 0.003 + 1000).requires_grad_()
    out = shakedrop_bn_shortcut(h, x, None, None, training=True)
    (gradient,) = torch.autograd.grad(out.square().sum(), h)
    h64 = h.detach().double().requires_grad_()
    out64 = shakedrop_bn_shortcut(h64, x.detach().double(), None, None, training=True)
    (gradient64,) = torch.autograd.grad(out64.square().sum(), h64)
    assert (out - out64).abs().max() < 1e-5
    assert (gradient - gradient64).abs().max() < 1e-4 * gradient64.abs().max()


def test_evaluation_is_the_mean_over_draws(backend_name: str, implementation: str) -> None:
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
def test_statistics_of_the_rounded_output(
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
    norm = nn.BatchNorm2d(inputs["h"].shape[1], momentum=1.0, device=implementation)
    y, statistics = shakedrop_bn_shortcut(**inputs, next_norm=norm)
    assert all(map(torch.equal, (y, statistics), shakedrop_bn_shortcut(**inputs, next_norm=norm)))
    torch.testing.assert_close(y, shakedrop_bn_shortcut(**inputs))
    assert statistics.dtype == torch.float32
    var, mean = torch.var_mean(y.double(), dim=(0, 2, 3), correction=0)
    found = statistics[0].double() + statistics[1].double()
    assert ((found - mean).abs() <= 3 * 2**-24 * (mean.abs() + var.sqrt())).all()
    torch.testing.assert_close(statistics[2].double(), (var + norm.eps).rsqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_mean, statistics[0])
    m = y.numel() // len(mean)
    torch.testing.assert_close(norm.running_var.double(), var * m / (m - 1), rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("pool", [False, True])
def test_statistics_for_the_norm_after(pool: bool, momentum: float | None, implementation: str) -> None:
    """Two batches: what the batch norm after the tail makes of it, its running statistics and all gradients are those
    without statistics handed on; who takes them does not update again."""
    h, x = draw_tail(implementation, pool=pool)
    make = SampleMaker(torch.float32, implementation, 3)
    affine = {"weight": (make.rand(8) + 0.5).requires_grad_(), "bias": make.randn(8).requires_grad_()}
    scaling = {"keep_probability": 0.5, **draw_counters(implementation)}
    found = []
    for hands_on in (True, False):
        norm = nn.BatchNorm2d(8, momentum=momentum, device=implementation)
        buffers = (norm.running_mean, norm.running_var)
        settings = {"num_batches_tracked": norm.num_batches_tracked, "momentum": momentum, "training": True, **affine}
        results: list[Tensor] = []
        for batch in range(2):
            arguments, statistics = (h * (1 + batch), x, None, None), None
            if hands_on:
                y, statistics = shakedrop_bn_shortcut(*arguments, next_norm=norm, training=True, **affine, **scaling)
                assert norm.num_batches_tracked.item() == batch + 1
            else:
                y = shakedrop_bn_shortcut(*arguments, training=True, **affine, **scaling)
            y, branch = batch_norm_act(y, *buffers, statistics=statistics, return_input=True, **settings)
            results += [y, branch]
        loss = (results[-1] * results[-2]).square().sum()
        gradients = torch.autograd.grad(loss, (h, x, *affine.values()))
        assert norm.num_batches_tracked.item() == 2
        found.append([*results, *buffers, *gradients])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def test_statistics_are_handed_on(implementation: str) -> None:
    """From a tail to the next one, and from that to the next block's fork and to the pooling."""
    h, x = draw_tail(implementation, in_channels=8)
    make = SampleMaker(torch.float32, implementation, 9)
    weight, bias = (make.rand(8) + 0.5).requires_grad_(), make.randn(8).requires_grad_()

    def outputs(given: bool) -> list[Tensor]:
        norms = [nn.BatchNorm2d(8, device=implementation) for _ in range(2)]
        (mean, var), last = ([norm.running_mean, norm.running_var] for norm in norms)
        settings: list[dict[str, Any]] = [{"weight": weight, "bias": bias, "training": True} for _ in range(2)]
        y = shakedrop_bn_shortcut(h, x, None, None, **settings[0], next_norm=norms[0] if given else None)
        if given:
            y, settings[0]["statistics"] = y
        y = shakedrop_bn_shortcut(y, x, mean, var, **settings[0], next_norm=norms[1] if given else None)
        if given:
            y, settings[1]["statistics"] = y
        y, branch = batch_norm_act(y, *last, return_input=True, **settings[1])
        pooled = global_avg_pool_act(y, torch.zeros_like(mean), torch.ones_like(var), **settings[1])
        gradients = torch.autograd.grad((branch * y).sum() + pooled.sin().sum(), (h, x, weight, bias))
        return [y, branch, pooled, mean, var, *last, *gradients]

    torch.testing.assert_close(outputs(True), outputs(False), rtol=1e-4, atol=1e-4)


def test_plain_torch_leaves_statistics_to_the_norm_after() -> None:
    h, x = draw_tail("cpu")
    norm = nn.BatchNorm2d(8)
    y, statistics = shakedrop_bn_shortcut(h, x, None, None, training=True, next_norm=norm)
    assert statistics is None
    assert norm.num_batches_tracked == 0
    assert torch.equal(y, shakedrop_bn_shortcut(h, x, None, None, training=True))


def test_the_norm_after_counts_once(implementation: str) -> None:
    """However many blocks of channels there are; without tracking, as in a SAM step's second pass, nothing moves."""
    h, x = draw_tail(implementation, channels=264)
    norm = nn.BatchNorm2d(264, device=implementation)
    for tracks in (True, False):
        norm.track_running_stats = tracks
        before = [norm.running_mean.clone(), norm.running_var.clone()]
        y, statistics = shakedrop_bn_shortcut(h, x, None, None, training=True, next_norm=norm)
        buffers = (norm.running_mean, norm.running_var) if tracks else (None, None)
        count = norm.num_batches_tracked if tracks else None
        settings = {"num_batches_tracked": count, "training": True, "statistics": statistics, "act": "identity"}
        z = batch_norm_act(y, *buffers, **settings)
        assert norm.num_batches_tracked.item() == 1
        assert torch.equal(norm.running_mean, before[0]) != tracks
        assert torch.equal(norm.running_var, before[1]) != tracks
        torch.testing.assert_close(z, F.batch_norm(y, None, None, training=True), rtol=1e-4, atol=1e-4)


def test_for_norm_compiles_fullgraph(implementation: str) -> None:
    h, x = draw_tail(implementation)

    def unit(norm: nn.BatchNorm2d, h: Tensor, x: Tensor) -> Tensor:
        y, statistics = shakedrop_bn_shortcut(h, x, None, None, training=True, next_norm=norm)
        buffers = (norm.running_mean, norm.running_var)
        return batch_norm_act(
            y, *buffers, num_batches_tracked=norm.num_batches_tracked, training=True, statistics=statistics
        )

    torch.compiler.reset()
    results = []
    for run in (torch.compile(unit, fullgraph=True, backend="aot_eager"), unit):
        norm = nn.BatchNorm2d(8, device=implementation)
        z = run(norm, h, x)
        assert norm.num_batches_tracked.item() == 1
        results.append([z, norm.running_mean, norm.running_var, *torch.autograd.grad(z.square().sum(), (h, x))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", [shakedrop_bn_shortcut, batch_norm_act, global_avg_pool_act])
def test_given_statistics_move_nothing(op: Any, implementation: str) -> None:
    x = SampleMaker(torch.float32, implementation, 12).randn(3, 8, 4, 4)
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    statistics = torch.stack([mean, torch.zeros_like(mean), (var + 1e-5).rsqrt()])
    buffers = [torch.full((8,), value, device=implementation) for value in (0.5, 2.0)]
    count = torch.tensor(3, device=implementation)
    settings = {"num_batches_tracked": count, "training": True}
    inputs = (x, x) if op is shakedrop_bn_shortcut else (x,)
    found = op(*inputs, *buffers, **settings, statistics=statistics)
    assert count.item() == 3
    assert [buffer.unique().tolist() for buffer in buffers] == [[0.5], [2.0]]
    torch.testing.assert_close(found, op(*inputs, *buffers, **settings), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", [shakedrop_bn_shortcut, batch_norm_act, global_avg_pool_act])
@pytest.mark.parametrize(
    ("statistics", "training", "message"),
    [
        (STATISTICS, False, "statistics must be None when training is False"),
        (STATISTICS[:2], True, r"statistics must be \[3, 4\] torch.float32 on cpu, got \[2, 4\]"),
        (STATISTICS.half(), True, r"statistics must be \[3, 4\] torch.float32 on cpu, got \[3, 4\] torch.float16"),
        (STATISTICS.to("meta"), True, r"statistics must be \[3, 4\] torch.float32 on cpu, got .* on meta"),
        (STATISTICS.to_sparse(), True, "statistics must be a dense tensor"),
        (STATISTICS.clone().requires_grad_(), True, "statistics must not require a gradient"),
    ],
)
def test_wrong_statistics(op: Any, statistics: Tensor, training: bool, message: str) -> None:
    inputs = (H, H) if op is shakedrop_bn_shortcut else (H,)
    with pytest.raises(ValueError, match=message):
        op(*inputs, C, C, training=training, statistics=statistics)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(8), r"next_norm's running_mean must be \[4\]"),
        (nn.BatchNorm2d(4).eval(), "next_norm must be in training"),
        (nn.BatchNorm2d(4, device="meta"), "next_norm's running_mean must be on"),
    ],
)
def test_mistakes_of_the_norm_after(norm: nn.BatchNorm2d, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        shakedrop_bn_shortcut(H, H, None, None, training=True, next_norm=norm)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["image", "pooled odd", "no affine"])
def test_ops_beside_the_functional_one(name: str, momentum: float | None, spec: OpSpec, implementation: str) -> None:
    """That which writes to the running statistics, and the backward."""
    inputs: Inputs = spec.cases[name](SampleMaker(torch.float32, implementation))
    arguments = spec.op_arguments({**inputs, "momentum": momentum})
    op = torch.ops.cifarfast.shakedrop_bn_shortcut.default
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))
    h, x, *settings = arguments
    in_shape = list(x.shape) if x.shape[2:] != h.shape[2:] else None
    # without those of the batch norm after it
    backward = (torch.ones_like(h), h, *settings[:-6], in_shape)
    torch.library.opcheck(torch.ops.cifarfast.shakedrop_bn_shortcut_backward.default, backward)


def test_second_derivative(implementation: str) -> None:
    h, x = draw_tail(implementation)
    norm = nn.BatchNorm2d(8, device=implementation)
    outputs = [shakedrop_bn_shortcut(h, x, None, None, training=True)]
    outputs.append(shakedrop_bn_shortcut(h, x, None, None, training=True, next_norm=norm)[0])
    for out in outputs:
        (gradient,) = torch.autograd.grad(out.square().sum(), h, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.square().sum().backward()


def test_gradient_accumulates_and_backward_repeats(implementation: str) -> None:
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
    "count device": ({"num_batches_tracked": torch.zeros((), dtype=torch.int64, device="meta")}, "num_batches_tracked"),
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
