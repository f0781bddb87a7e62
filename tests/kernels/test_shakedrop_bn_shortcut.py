"""Agreement with separate modules, precision and errors of ``shakedrop_bn_shortcut``, beyond its OpSpec's tests."""

import pytest
import torch
import torch.nn.functional as F
from norm_inputs import draw_counters, draw_tail
from torch import nn

from cifarfast.kernels import (
    ShakeDropTail,
    shakedrop_bn_shortcut,
    share_randomness,
)
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

H = torch.zeros(2, 4, 3, 3)


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
