"""Ties, NaN, agreement with torch and errors of ``max_pool_bn_act``, beyond what its OpSpec generates."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cifarfast.kernels import MaxPoolBatchNormAct2d, batch_norm_act, max_pool_bn_act
from cifarfast.kernels.batch_norm.activations import ACTIVATIONS
from cifarfast.kernels.batch_norm.sample_inputs import channels_last
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

SETTINGS = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(h=st.integers(2, 5), w=st.integers(2, 5), training=st.booleans(), act=st.sampled_from(ACTIVATIONS))
def test_is_the_maximum_of_batch_norm_act(h: int, w: int, training: bool, act: str, implementation: str) -> None:
    inputs = channels_last(2, 5, h, w, act=act, training=training)(SampleMaker(torch.float32, implementation))
    inputs["x"].requires_grad_()
    pooled, composed = max_pool_bn_act(**inputs), F.max_pool2d(batch_norm_act(**inputs), 2)
    torch.testing.assert_close(pooled, composed, rtol=1e-5, atol=1e-6)
    cotangent = torch.randn_like(composed)
    ours, theirs = (torch.autograd.grad(y, inputs["x"], cotangent)[0] for y in (pooled, composed))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_of_equal_values_the_first_gets_the_gradient(implementation: str) -> None:
    x = torch.randint(0, 2, (6, 4, 6, 7), generator=torch.Generator().manual_seed(0)).float().to(implementation)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    statistics = torch.tensor([0.0, 0.0, 1.0], device=implementation)[:, None].repeat(1, 4)
    settings = (None, None, False, "identity", 0.0)
    y = torch.ops.cifarfast.max_pool_bn_act(x, statistics, *settings)
    cotangent = torch.randn_like(y)
    expected = F.max_pool2d(x, 2)
    assert torch.equal(y, expected)
    ours, theirs = (torch.autograd.grad(out, x, cotangent)[0] for out in (y, expected))
    assert torch.equal(ours, theirs)


def test_nan_is_a_maximum(implementation: str) -> None:
    inputs = channels_last(1, 2, 4, 4, training=False)(SampleMaker(torch.float32, implementation))
    inputs["x"][0, 1, 2, 3] = torch.nan
    y = max_pool_bn_act(**inputs)
    assert y[0, 1, 1, 1].isnan()
    assert y.isnan().sum() == 1


def test_backward_op_passes_opcheck(spec: OpSpec, implementation: str) -> None:
    for case in ("relu", "bare"):
        inputs = spec.cases[case](SampleMaker(torch.float32, implementation))
        arguments = spec.op_arguments(inputs)
        grad = torch.randn_like(torch.ops.cifarfast.max_pool_bn_act(*arguments))
        torch.library.opcheck(torch.ops.cifarfast.max_pool_bn_act_backward.default, (grad, *arguments))


def test_relu_masks_an_infinite_gradient(implementation: str) -> None:
    x = torch.tensor([-1.0, 1.0], device=implementation).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    grad = torch.tensor([torch.inf, 1.0], device=implementation).view(2, 1, 1, 1)
    statistics = torch.tensor([[0.0], [0.0], [1.0]], device=implementation)
    affine = (torch.ones(1, device=implementation), torch.zeros(1, device=implementation))
    backward = torch.ops.cifarfast.max_pool_bn_act_backward
    dx, _, d_bias = backward(grad, x, statistics, *affine, False, "relu", 0.0)
    assert dx.flatten().tolist() == [0.0] * 4 + [1.0, 0.0, 0.0, 0.0]
    assert d_bias.item() == 1.0


def test_module_mirrors_torch(implementation: str) -> None:
    torchs = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)).to(implementation)
    ours = MaxPoolBatchNormAct2d(6).to(implementation)
    ours.load_state_dict(torchs[0].state_dict())
    for training in (True, False):
        x = SampleMaker(torch.float32, implementation).randn(3, 6, 4, 5)
        torch.testing.assert_close(ours.train(training)(x), torchs.train(training)(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.state_dict(), torchs[0].state_dict())


def test_module_compiles_fullgraph() -> None:
    compiled = torch.compile(MaxPoolBatchNormAct2d(5), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 5, 3, 4, requires_grad=True)
    compiled(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("shape", [(2, 3, 1, 4), (2, 3, 4, 1)])
def test_an_image_without_a_window(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^x must have H and W of at least 2"):
        max_pool_bn_act(torch.zeros(shape), torch.zeros(3), torch.ones(3))


def test_a_sparse_image() -> None:
    with pytest.raises(ValueError, match=r"^x must be a dense tensor"):
        max_pool_bn_act(torch.zeros(2, 3, 4, 4).to_sparse(), torch.zeros(3), torch.ones(3))
