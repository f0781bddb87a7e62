"""Properties, agreement with torch's modules, and errors of ``bn_act_conv2d``, beyond what its OpSpec generates."""

import pytest
import torch
import torch.nn.functional as F
from norm_inputs import draw_unit, leaves_of
from torch import Tensor

from cifarfast.kernels import BNActConv2d, batch_norm_act, bn_act_conv2d
from cifarfast.kernels.batch_norm.sample_inputs import with_gaps
from cifarfast.kernels.testing.check import assert_matches
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker


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


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sample", ["3x3", "stride 2", "eval"])
def test_parameters_with_gaps(sample: str, spec: OpSpec, implementation: str) -> None:
    assert_matches(spec, with_gaps(spec.cases[sample])(SampleMaker(torch.float32, implementation)))


def test_module_takes_statistics_in_training_only() -> None:
    module = BNActConv2d(8, 8, 1, momentum=None)
    x = torch.randn(4, 8, 3, 3)
    mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
    statistics = torch.stack([mean, torch.zeros_like(mean), (var + 1e-5).rsqrt()])
    torch.testing.assert_close(module(x, statistics), module(x))
    assert module.bn.num_batches_tracked.item() == 1  # who makes statistics counts
    module.eval()
    torch.testing.assert_close(module(x, statistics), module(x))


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"in_channels": 12}, "in_channels"), ({"out_channels": 3}, "out_channels"), ({"kernel_size": 5}, "kernel_size")],
)
def test_module_mistakes(changes: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} "):
        BNActConv2d(**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, **changes})
