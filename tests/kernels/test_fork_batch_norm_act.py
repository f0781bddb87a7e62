"""The two gradients, layouts, memory and errors of ``fork_batch_norm_act``, beyond what its OpSpec generates."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarfast.kernels import ForkBatchNormAct2d, batch_norm_act, fork_batch_norm_act
from cifarfast.kernels.batch_norm.sample_inputs import channels_first, channels_last, given_statistics
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker


def _draw(device: str, dtype: torch.dtype = torch.float32, **settings: object) -> Inputs:
    inputs = channels_last(2, 8, 5, 3, **settings)(SampleMaker(dtype, device))
    inputs["x"].requires_grad_()
    return inputs


def test_results_are_x_and_its_batch_norm(
    dtype: torch.dtype, spec: OpSpec, backend_name: str, implementation: str
) -> None:
    inputs = _draw(implementation, dtype, act="gelu")
    x, y = fork_batch_norm_act(**inputs)
    assert torch.equal(x, inputs["x"])
    assert x.data_ptr() == inputs["x"].data_ptr()
    assert torch.equal(y, batch_norm_act(**inputs))


@pytest.mark.parametrize("used", ["both", "x", "y"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_both_results(
    training: bool, used: str, spec: OpSpec, backend_name: str, implementation: str
) -> None:
    inputs = _draw(implementation, training=training, act="silu")
    leaves = [inputs[name].requires_grad_() for name in ("x", "weight", "bias")]
    ours = dict(zip("xy", fork_batch_norm_act(**inputs), strict=True))
    z = F.batch_norm(leaves[0], inputs["running_mean"], inputs["running_var"], *leaves[1:], training)
    theirs = {"x": inputs["x"], "y": F.silu(z)}
    chosen = list(ours) if used == "both" else [used]
    found, expected = (
        torch.autograd.grad(sum(results[name].sin().sum() for name in chosen), leaves, allow_unused=True)
        for results in (ours, theirs)
    )
    for gradient, true in zip(found, expected, strict=True):
        if true is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, true, rtol=1e-4, atol=1e-4)


def _strided_like(shape: tuple[int, ...], strides: str, make: SampleMaker) -> Tensor:
    """A gradient as a consumer of x may hand it back."""
    n, c, h, w = shape
    if strides == "first channels":
        return make.randn(n, h, w, c + 8).permute(0, 3, 1, 2)[:, :c]
    if strides == "odd distance":
        return make.randn(n, h, w, c + 3).permute(0, 3, 1, 2)[:, 1 : c + 1]
    if strides == "middle channels":
        return make.randn(n, h, w, 2 * c + 8).permute(0, 3, 1, 2)[:, c : 2 * c]
    if strides == "cropped":
        return make.randn(n, h + 1, w + 2, c).permute(0, 3, 1, 2)[:, :, 1:, 2:]
    if strides == "expanded":
        return make.randn(1).expand(shape)
    return make.randn(*shape)


@pytest.mark.parametrize("shape", [(2, 8, 5, 3), (3, 16, 4, 1), (2, 5, 1, 4), (4, 1, 2, 2), (1, 8, 1, 1)], ids=str)
@pytest.mark.parametrize(
    "strides", ["first channels", "odd distance", "middle channels", "cropped", "expanded", "channels_first"]
)
def test_gradients_of_any_layout(
    strides: str, shape: tuple[int, ...], spec: OpSpec, backend_name: str, implementation: str
) -> None:
    make = SampleMaker(torch.float32, implementation)
    inputs = channels_first(*shape, training=False)(make)
    statistics, training = given_statistics(inputs)
    other, grad = (_strided_like(shape, strides, make) for _ in range(2))
    found, expected = (
        torch.ops.cifarfast.fork_batch_norm_act_backward(
            one, two, inputs["x"], statistics, inputs["weight"], inputs["bias"], training, "relu", 0.0
        )
        for one, two in ((grad, other), (grad.contiguous(), other.contiguous()))
    )
    for ours, true in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, true)


def test_sum_of_gradients_is_rounded_once(spec: OpSpec, backend_name: str, implementation: str) -> None:
    """½ + 2⁻¹¹ + 2⁻¹³, rounded to fp16, is ½ + 2⁻¹¹, and 1 more of that is rounded down; 1 more of the first is not."""
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float16, device=implementation)
    statistics = torch.tensor([[0.0], [0.0], [1.0]], device=implementation)
    weight = torch.full((1,), 0.5 + 2.0**-11 + 2.0**-13, device=implementation)
    ones = torch.ones_like(x)
    dx, _, _ = torch.ops.cifarfast.fork_batch_norm_act_backward(
        ones, ones, x, statistics, weight, torch.zeros_like(weight), False, "identity", 0.0
    )
    assert dx.item() == 1.5 + 2.0**-10


def test_relu_masks_an_infinite_gradient(spec: OpSpec, backend_name: str, implementation: str) -> None:
    x = torch.tensor([-1.0, 1.0, 2.0, -2.0], device=implementation).view(4, 1, 1, 1)
    grad = torch.tensor([torch.inf, 1.0, 1.0, -torch.inf], device=implementation).view_as(x)
    statistics = torch.tensor([[0.0], [0.0], [1.0]], device=implementation)
    affine = (torch.ones(1, device=implementation), torch.zeros(1, device=implementation))
    settings = (False, "relu", 0.0)
    backward = torch.ops.cifarfast.fork_batch_norm_act_backward
    dx, _, d_bias = backward(grad, torch.ones_like(x), x, statistics, *affine, *settings)
    assert dx.flatten().tolist() == [1.0, 2.0, 2.0, 1.0]
    assert d_bias.item() == 2.0


@pytest.mark.parametrize("sample", ["relu", "bare", "eval", "batch 1"])
def test_backward_without_the_other_gradient_passes_opcheck(
    sample: str, spec: OpSpec, backend_name: str, implementation: str
) -> None:
    grad, _, *others = spec.op_arguments(spec.cases[sample](SampleMaker(torch.float32, implementation)))
    torch.library.opcheck(torch.ops.cifarfast.fork_batch_norm_act_backward.default, (grad, None, *others))


def test_backward_keeps_x_alone(spec: OpSpec, backend_name: str, implementation: str) -> None:
    if backend_name == "torch" and implementation == "cpu":
        pytest.skip("plain torch keeps what it likes")
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        inputs = _draw(implementation)
        fork_batch_norm_act(**inputs)
    assert [tensor.data_ptr() for tensor in kept if tensor.dim() == 4] == [inputs["x"].data_ptr()]
    assert len(kept) == 1 + 3


def test_second_derivative(spec: OpSpec, backend_name: str, implementation: str) -> None:
    if backend_name == "torch" and implementation == "cpu":
        pytest.skip("plain torch has it")
    inputs = _draw(implementation, act="silu")
    (gradient,) = torch.autograd.grad(fork_batch_norm_act(**inputs)[1].sum(), inputs["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()


def test_change_in_place_is_an_error(spec: OpSpec, backend_name: str, implementation: str) -> None:
    if backend_name == "torch" and implementation == "cpu":
        pytest.skip("plain torch returns x itself")
    x, _ = fork_batch_norm_act(**_draw(implementation))
    with pytest.raises(RuntimeError, match="modified inplace"):
        x.mul_(2)


def test_no_gradient_wanted(spec: OpSpec, backend_name: str, implementation: str) -> None:
    inputs = _draw(implementation)
    with torch.no_grad():
        _, y = fork_batch_norm_act(**inputs)
    assert not y.requires_grad


@pytest.mark.parametrize("momentum", [0.3, None])
def test_module_mirrors_torch(momentum: float | None, spec: OpSpec, backend_name: str, implementation: str) -> None:
    torchs = nn.BatchNorm2d(6, momentum=momentum).to(implementation)
    ours = ForkBatchNormAct2d(6, momentum=momentum, act="identity").to(implementation)
    ours.load_state_dict(torchs.state_dict())
    make = SampleMaker(torch.float32, implementation)
    for training in (True, True, False):
        x = make.randn(3, 6, 4, 5) * 2 + 1
        ours.train(training)
        torchs.train(training)
        same, y = ours(x)
        assert torch.equal(same, x)
        torch.testing.assert_close(y, torchs(x), rtol=1e-5, atol=1e-5)
    for (name, mine), theirs in zip(ours.state_dict().items(), torchs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


@pytest.mark.parametrize("used", ["both", "x", "y"])
def test_block_compiles_fullgraph(used: str, spec: OpSpec, backend_name: str, implementation: str) -> None:
    torch.compiler.reset()
    module = ForkBatchNormAct2d(5).to(implementation)
    x = SampleMaker(torch.float32, implementation).randn(2, 5, 3, 3).requires_grad_()

    def block(x: Tensor) -> Tensor:
        x, y = module(2 * x)
        return {"both": x * y.sin(), "x": x.sin(), "y": y.sin()}[used]

    results = [function(x) for function in (torch.compile(block, fullgraph=True, backend="aot_eager"), block)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(result.sum(), x) for result in results))
    assert module.num_batches_tracked.item() == 2


WRONG = {
    "three dimensions": ({"x": torch.zeros(2, 3, 4)}, "x"),
    "one value per channel": ({"x": torch.zeros(1, 3, 1, 1)}, "x"),
    "number of channels": ({"x": torch.zeros(2, 4, 4, 4)}, "running_mean"),
    "weight alone": ({"weight": torch.ones(3)}, "bias"),
    "eps": ({"eps": -1.0}, "eps"),
    "act": ({"act": "swish"}, "act"),
    "sparse": ({"x": torch.zeros(2, 3, 4, 4).to_sparse()}, "x"),
    "sparse statistics": ({"statistics": (torch.zeros(3), torch.ones(3).to_sparse())}, "statistics"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_name_the_argument(mistake: str) -> None:
    changes, name = WRONG[mistake]
    buffers = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "training": True}
    with pytest.raises(ValueError, match=rf"^{name} "):
        fork_batch_norm_act(**{"x": torch.zeros(2, 3, 4, 4), **buffers, **changes})
