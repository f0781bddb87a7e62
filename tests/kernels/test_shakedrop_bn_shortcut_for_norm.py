"""``shakedrop_bn_shortcut_for_norm``: what it makes for the batch norm after it."""

import pytest
import torch
import torch.nn.functional as F
from norm_inputs import draw_counters, draw_tail
from torch import Tensor, nn

from cifarfast.kernels import (
    fork_batch_norm_act,
    shakedrop_bn_shortcut,
    shakedrop_bn_shortcut_for_norm,
    shakedrop_bn_shortcut_stats,
)
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

H = torch.zeros(2, 4, 3, 3)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("pool", [False, True])
def test_statistics_for_the_norm_after(
    pool: bool, momentum: float | None, spec: OpSpec, backend_name: str, implementation: str
) -> None:
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
                y, statistics = shakedrop_bn_shortcut_for_norm(
                    *arguments, next_norm=norm, training=True, **affine, **scaling
                )
                assert (statistics is None) == (backend_name == "torch")
                assert norm.num_batches_tracked.item() == batch + (backend_name != "torch")
            else:
                y = shakedrop_bn_shortcut(*arguments, training=True, **affine, **scaling)
            y, branch = fork_batch_norm_act(y, *buffers, statistics=statistics, **settings)
            results += [y, branch]
        loss = (results[-1] * results[-2]).square().sum()
        gradients = torch.autograd.grad(loss, (h, x, *affine.values()))
        assert norm.num_batches_tracked.item() == 2
        found.append([*results, *buffers, *gradients])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["image", "pooled odd", "pixel", "padded channels", "several programs"])
def test_statistics_for_the_norm_after_are_those_of_the_rounded_output(
    name: str, dtype: torch.dtype, spec: OpSpec, backend_name: str, implementation: str, poisoned_memory: None
) -> None:
    if backend_name == "torch":
        pytest.skip("the op that normalises has them")
    inputs = spec.cases[name](SampleMaker(dtype, implementation))
    channels = inputs["h"].shape[1]
    norm = nn.BatchNorm2d(channels, momentum=1.0, device=implementation)
    y, statistics = shakedrop_bn_shortcut_for_norm(**inputs, next_norm=norm)
    assert torch.equal(y, shakedrop_bn_shortcut_stats(**inputs)[0])
    var, mean = torch.var_mean(y.double(), dim=(0, 2, 3), correction=0)
    found = statistics[0].double() + statistics[1].double()
    assert ((found - mean).abs() <= 3 * 2**-24 * (mean.abs() + var.sqrt())).all()
    torch.testing.assert_close(statistics[2].double(), (var + norm.eps).rsqrt(), rtol=1e-5, atol=0)
    m = y.numel() // channels
    torch.testing.assert_close(norm.running_mean, statistics[0])
    torch.testing.assert_close(norm.running_var.double(), var * m / (m - 1), rtol=1e-5, atol=1e-9)


def test_the_norm_after_counts_once(spec: OpSpec, backend_name: str, implementation: str) -> None:
    """However many blocks of channels there are; without tracking, as in a SAM step's second pass, nothing moves."""
    h, x = draw_tail(implementation, channels=264)
    norm = nn.BatchNorm2d(264, device=implementation)
    for tracks in (True, False):
        norm.track_running_stats = tracks
        before = [norm.running_mean.clone(), norm.running_var.clone()]
        y, statistics = shakedrop_bn_shortcut_for_norm(h, x, None, None, training=True, next_norm=norm)
        buffers = (norm.running_mean, norm.running_var) if tracks else (None, None)
        count = norm.num_batches_tracked if tracks else None
        settings = {"num_batches_tracked": count, "training": True, "statistics": statistics, "act": "identity"}
        z = fork_batch_norm_act(y, *buffers, **settings)[1]
        assert norm.num_batches_tracked.item() == 1
        assert torch.equal(norm.running_mean, before[0]) != tracks
        assert torch.equal(norm.running_var, before[1]) != tracks
        torch.testing.assert_close(z, F.batch_norm(y, None, None, training=True), rtol=1e-4, atol=1e-4)


def test_for_norm_compiles_fullgraph(spec: OpSpec, backend_name: str, implementation: str) -> None:
    h, x = draw_tail(implementation)

    def unit(norm: nn.BatchNorm2d, h: Tensor, x: Tensor) -> Tensor:
        y, statistics = shakedrop_bn_shortcut_for_norm(h, x, None, None, training=True, next_norm=norm)
        buffers = (norm.running_mean, norm.running_var)
        return fork_batch_norm_act(
            y, *buffers, num_batches_tracked=norm.num_batches_tracked, training=True, statistics=statistics
        )[1]

    torch.compiler.reset()
    results = []
    for run in (torch.compile(unit, fullgraph=True, backend="aot_eager"), unit):
        norm = nn.BatchNorm2d(8, device=implementation)
        z = run(norm, h, x)
        assert norm.num_batches_tracked.item() == 1
        results.append([z, norm.running_mean, norm.running_var, *torch.autograd.grad(z.square().sum(), (h, x))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["image", "pooled odd", "no affine"])
def test_opcheck_for_the_norm_after(name: str, spec: OpSpec, backend_name: str, implementation: str) -> None:
    arguments = spec.op_arguments(spec.cases[name](SampleMaker(torch.float32, implementation)))
    channels = arguments[0].shape[1]
    count = torch.tensor(3, device=implementation)
    buffers = (torch.zeros(channels, device=implementation), torch.ones(channels, device=implementation), count)
    op = torch.ops.cifarfast.shakedrop_bn_shortcut_for_norm.default
    inputs = [a.detach() if isinstance(a, Tensor) else a for a in arguments[:-1]]
    for momentum in (0.1, None):
        torch.library.opcheck(op, (*inputs, *buffers, momentum, 1e-5), test_utils=("test_schema", "test_faketensor"))


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
        shakedrop_bn_shortcut_for_norm(H, H, None, None, training=True, next_norm=norm)
