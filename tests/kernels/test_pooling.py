"""Ties, NaN and masks of the pooling ops, beyond what their OpSpecs generate."""

import pytest
import torch
import torch.nn.functional as F

from cifarfast.kernels import max_pool_bn_act
from cifarfast.kernels.batch_norm.sample_inputs import channels_last
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker


@pytest.mark.ops("max_pool_bn_act")
def test_of_equal_values_the_first_gets_the_gradient(implementation: str) -> None:
    x = torch.randint(0, 2, (6, 4, 6, 7), generator=torch.Generator().manual_seed(0)).float().to(implementation)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    statistics = torch.tensor([0.0, 0.0, 1.0], device=implementation)[:, None].repeat(1, 4)
    y = torch.ops.cifarfast.max_pool_bn_act(x, statistics, None, None, False, "identity", 0.0)
    cotangent = torch.randn_like(y)
    expected = F.max_pool2d(x, 2)
    assert torch.equal(y, expected)
    assert torch.equal(*(torch.autograd.grad(out, x, cotangent)[0] for out in (y, expected)))


@pytest.mark.ops("max_pool_bn_act")
def test_nan_is_a_maximum(implementation: str) -> None:
    inputs = channels_last(1, 2, 4, 4, training=False)(SampleMaker(torch.float32, implementation))
    inputs["x"][0, 1, 2, 3] = torch.nan
    y = max_pool_bn_act(**inputs)
    assert y[0, 1, 1, 1].isnan()
    assert y.isnan().sum() == 1


@pytest.mark.ops("global_avg_pool_act", "max_pool_bn_act")
def test_relu_masks_an_infinite_gradient(spec: OpSpec, implementation: str) -> None:
    x = torch.tensor([-1.0, 1.0], device=implementation).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    mean = spec.name == "global_avg_pool_act"
    grad = torch.tensor([torch.inf, 1.0], device=implementation).view(2, 1, *(() if mean else (1, 1)))
    statistics = torch.tensor([[0.0], [0.0], [1.0]], device=implementation)
    affine = (torch.ones(1, device=implementation), torch.zeros(1, device=implementation))
    backward = getattr(torch.ops.cifarfast, f"{spec.name}_backward")
    dx, _, d_bias = backward(grad, x, statistics, *affine, False, "relu", 0.0)
    assert dx.flatten().tolist() == [0.0] * 4 + ([0.25] * 4 if mean else [1.0, 0.0, 0.0, 0.0])
    assert d_bias.item() == 1.0
