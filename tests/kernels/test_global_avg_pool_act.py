"""Agreement with torch's modules and errors of ``global_avg_pool_act``, beyond what its OpSpec generates."""

import pytest
import torch
from torch import nn

from cifarfast.kernels import GlobalAvgPoolAct2d, batch_norm_act, global_avg_pool_act
from cifarfast.kernels.batch_norm.sample_inputs import channels_last
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker


@pytest.mark.parametrize("training", [True, False])
def test_is_the_mean_of_batch_norm_act(training: bool, implementation: str) -> None:
    for act in ("relu", "silu"):
        inputs = channels_last(3, 9, 4, 5, act=act, training=training)(SampleMaker(torch.float32, implementation))
        inputs["x"].requires_grad_()
        pooled, mean = global_avg_pool_act(**inputs), batch_norm_act(**inputs).mean(dim=(2, 3))
        torch.testing.assert_close(pooled, mean, rtol=1e-5, atol=1e-6)
        cotangent = torch.randn_like(mean)
        ours, theirs = (torch.autograd.grad(y, inputs["x"], cotangent)[0] for y in (pooled, mean))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_backward_op_passes_opcheck(spec: OpSpec, implementation: str) -> None:
    for case in ("relu", "bare"):
        inputs = spec.cases[case](SampleMaker(torch.float32, implementation))
        x, *rest = spec.op_arguments(inputs)
        arguments = (torch.randn(x.shape[:2], device=implementation), x, *rest)
        torch.library.opcheck(torch.ops.cifarfast.global_avg_pool_act_backward.default, arguments)


def test_relu_masks_an_infinite_gradient(implementation: str) -> None:
    x = torch.tensor([-1.0, 1.0], device=implementation).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    grad = torch.tensor([torch.inf, 1.0], device=implementation).view(2, 1)
    statistics = torch.tensor([[0.0], [0.0], [1.0]], device=implementation)
    affine = (torch.ones(1, device=implementation), torch.zeros(1, device=implementation))
    backward = torch.ops.cifarfast.global_avg_pool_act_backward
    dx, _, d_bias = backward(grad, x, statistics, *affine, False, "relu", 0.0)
    assert dx.flatten().tolist() == [0.0] * 4 + [0.25] * 4
    assert d_bias.item() == 1.0


def test_module_mirrors_torch(implementation: str) -> None:
    torchs = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(implementation)
    ours = GlobalAvgPoolAct2d(6).to(implementation)
    ours.load_state_dict(torchs[0].state_dict())
    for training in (True, False):
        x = SampleMaker(torch.float32, implementation).randn(3, 6, 4, 5)
        torch.testing.assert_close(ours.train(training)(x), torchs.train(training)(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.state_dict(), torchs[0].state_dict())


def test_module_compiles_fullgraph() -> None:
    compiled = torch.compile(GlobalAvgPoolAct2d(5), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 5, 3, 3, requires_grad=True)
    compiled(x).sum().backward()
    assert x.grad is not None


def test_mistakes_name_the_argument() -> None:
    vectors = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match=r"^x must be \[N, C, H, W\]"):
        global_avg_pool_act(torch.zeros(2, 3), *vectors)
    with pytest.raises(ValueError, match=r"^x must be a dense tensor"):
        global_avg_pool_act(torch.zeros(2, 3, 2, 2).to_sparse(), *vectors)
    with pytest.raises(ValueError, match=r"^running_mean must be"):
        global_avg_pool_act(torch.zeros(2, 4, 2, 2), *vectors)
