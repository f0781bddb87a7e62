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
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker
from cifarfast.models.pyramidnet import PyramidBasicBlock

H = torch.zeros(2, 4, 3, 3)
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
    draws = 20 if (backend_name, implementation) == ("triton", "cpu") else 200
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
            fast_mode=True,
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
