"""Properties, agreement with torch, memory and errors of ``batch_norm_act``, beyond what its OpSpec generates.

With ``return_input``: the two gradients of x, in any layout.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cifarfast.kernels import BatchNormAct2d, batch_norm_act
from cifarfast.kernels.batch_norm.activations import ACTIVATIONS
from cifarfast.kernels.batch_norm.batch_norm_act.op import backward, forward
from cifarfast.kernels.batch_norm.batch_norm_act.statistics import batch_norm_statistics
from cifarfast.kernels.batch_norm.norm import Norm
from cifarfast.kernels.batch_norm.sample_inputs import (
    channels_first,
    channels_last,
    given_norm,
)
from cifarfast.kernels.batch_norm.state import BatchNormState
from cifarfast.kernels.dropout.draws import NO_DROPOUT
from cifarfast.kernels.testing.check import assert_matches
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker
from cifarfast.kernels.tuning import tables as tuning


def _draw(device: str, n: int, c: int, h: int, w: int, **changes: object) -> Inputs:
    inputs = channels_last(n, c, h, w, **changes)(SampleMaker(torch.float32, device))
    inputs["x"].requires_grad_()
    return inputs


def _norm(inputs: Inputs) -> Norm:
    """As ``batch_norm_act`` hands it to its op."""
    return replace(given_norm(inputs), negative_slope=0.0)


def _norm_of_one_channel(device: str, weight: float = 1.0, act: str = "relu") -> Norm:
    """``act(weight · x + bias)``; the bias is 0."""
    statistics = torch.tensor([[0.0], [0.0], [1.0]], device=device)
    bias = torch.zeros(1, device=device, requires_grad=True)
    return Norm(statistics, torch.full((1,), weight, device=device), bias, False, act, 0.0)


@pytest.fixture
def few_programs() -> Iterator[None]:
    """Tiles so small and programs so few that every program walks through several tiles."""
    row = {"block_m": 16, "block_c": 16, "num_warps": 4, "stages": 4, "programs": 5}
    with tuning.override({"batch_norm_act": row}):
        yield


@pytest.mark.usefixtures("few_programs", "poisoned_memory")
@pytest.mark.parametrize("shape", [(3, 8, 9, 7), (2, 24, 7, 7)])
def test_many_tiles_in_a_program(shape: tuple[int, ...], spec: OpSpec, implementation: str) -> None:
    assert_matches(spec, channels_last(*shape, act="leaky_relu")(SampleMaker(torch.float32, implementation)))


def _first_chunk_far_away(x: Tensor) -> None:
    x[0, :, 0, :16] += 1e3


def _first_pixel_far_away(x: Tensor) -> None:
    x[0, :, 0, 0] = -1e4


def _last_chunk_far_away(x: Tensor) -> None:
    x[-1, :, -1, -16:] -= 1e3


def _large_mean(x: Tensor) -> None:
    x.mul_(1e-2).add_(1e3)


@pytest.mark.parametrize("disturb", [_large_mean, _first_chunk_far_away, _first_pixel_far_away, _last_chunk_far_away])
def test_statistics_of_many_chunks(disturb: Callable[[Tensor], None], implementation: str) -> None:
    x = SampleMaker(torch.float32, implementation).randn(3, 8, 25, 16).to(memory_format=torch.channels_last)
    disturb(x)
    running_mean, running_var = torch.zeros(8, device=implementation), torch.zeros(8, device=implementation)
    chunks = x[:, 0].numel() // 16
    # the last program of a block of channels reads 64 chunks at a time
    tiles = {"block_m": 16, "block_c": 64, "num_warps": 4, "stages": 2, "programs": chunks}
    with tuning.override({"batch_norm_act": tiles}):
        statistics = batch_norm_statistics(x, BatchNormState(running_mean, running_var, None, 1.0, 1e-12))
    high, low, rstd = statistics.double()
    var, mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    eps = torch.finfo(torch.float32).eps
    # the rounding of x − x_0, which the mean is of
    assert ((high + low - mean).abs() <= 2 * eps * (var.sqrt() + (x[0, :, 0, 0].double() - mean).abs())).all()
    assert ((rstd**-2 - var).abs() <= chunks * eps * var).all()
    assert torch.equal(running_mean, statistics[0])
    torch.testing.assert_close(running_var.double(), x.double().var(dim=(0, 2, 3)), rtol=chunks * eps, atol=0)


def test_relu_mask_is_that_of_the_rounded_output(implementation: str) -> None:
    x = torch.tensor([-1.0, 1.0, 2.0, -2.0], dtype=torch.float16, device=implementation).view(4, 1, 1, 1)
    norm = _norm_of_one_channel(implementation, weight=2.0**-26)  # every y rounds to 0 in fp16
    for residual in (None, torch.zeros_like(x)):
        leaf = x.clone().requires_grad_()
        y = forward(leaf, norm, residual, NO_DROPOUT)
        assert not y.any()
        gradients = torch.autograd.grad(y, [leaf, norm.bias], torch.ones_like(y))
        assert not any(gradient.any() for gradient in gradients)


def test_relu_masks_an_infinite_gradient(implementation: str) -> None:
    values = torch.tensor([-1.0, 1.0, 2.0, -2.0], device=implementation).view(4, 1, 1, 1)
    cotangent = torch.tensor([torch.inf, 1.0, 1.0, -torch.inf], device=implementation).view_as(values)
    norm = _norm_of_one_channel(implementation)
    for residual in (None, torch.zeros_like(values).requires_grad_()):
        x = values.clone().requires_grad_()
        y = forward(x, norm, residual, NO_DROPOUT)
        leaves = [x, norm.bias] if residual is None else [x, norm.bias, residual]
        dx, d_bias, *d_residual = torch.autograd.grad(y, leaves, cotangent)
        for gradient in (dx, *d_residual):
            assert gradient.flatten().tolist() == [0.0, 1.0, 1.0, 0.0]
        assert d_bias.item() == 2.0
    dx, _, d_bias, _ = backward(cotangent, values, norm, None, False, NO_DROPOUT, torch.ones_like(values))
    assert dx.flatten().tolist() == [1.0, 2.0, 2.0, 1.0]
    assert d_bias.item() == 2.0


@pytest.mark.parametrize(("act", "extra"), [("identity", 0), ("relu", 1), ("silu", 1)])
def test_backward_keeps_little(act: str, extra: int, implementation: str) -> None:
    inputs = _draw(implementation, 2, 8, 4, 4, act=act)
    for residual, images in ((None, 1), (torch.randn_like(inputs["x"]), 1 + extra)):
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # noqa: B023
            forward(inputs["x"], _norm(inputs), residual, NO_DROPOUT)
        assert sum(tensor.dim() == 4 for tensor in kept) == images
        assert len(kept) == images + 3


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float64])
def test_statistics_of_eval(kept: torch.dtype, implementation: str) -> None:
    """In one kernel, of buffers of any dtype, for more channels than a program has."""
    make = SampleMaker(torch.float64, implementation)
    mean, var = make.randn(300).to(kept), (make.rand(300) + 0.5).to(kept)
    op = torch.ops.cifarfast.running_statistics.default
    found = op(mean, var, 1e-3)
    assert found.dtype == (torch.float64 if kept == torch.float64 else torch.float32)
    expected = torch.stack([mean.double(), torch.zeros_like(mean.double()), (var.double() + 1e-3).rsqrt()])
    torch.testing.assert_close(found.double(), expected, rtol=3e-7, atol=0)
    torch.library.opcheck(op, (mean, var, 1e-3))


def test_nan_stays_nan(implementation: str) -> None:
    for act in ACTIVATIONS:
        inputs = _draw(implementation, 2, 2, 2, 2, act=act, training=False)
        x = inputs.pop("x").detach()
        x[0, 0, 0, 0] = torch.nan
        y = batch_norm_act(x, **inputs)
        assert y[0, 0, 0, 0].isnan()
        assert y.isnan().sum() == 1


def test_half_precision_parameters(implementation: str) -> None:
    inputs = channels_last(3, 5, 4, 4)(SampleMaker(torch.bfloat16, implementation))
    wide = batch_norm_act(
        **{name: value.clone() if torch.is_tensor(value) else value for name, value in inputs.items()}
    )
    for name in ("weight", "bias", "running_mean", "running_var"):
        inputs[name] = inputs[name].bfloat16()
    inputs["weight"].requires_grad_()
    y = batch_norm_act(**inputs)
    torch.testing.assert_close(y, wide, rtol=0.05, atol=0.05)
    (gradient,) = torch.autograd.grad(y.sum(), inputs["weight"])
    assert gradient.dtype == inputs["running_var"].dtype == torch.bfloat16


def test_empty_batch_in_eval(implementation: str) -> None:
    inputs = _draw(implementation, 2, 3, 4, 4, training=False)
    y = batch_norm_act(**{**inputs, "x": inputs["x"][:0]})
    assert y.shape == (0, 3, 4, 4)


def test_module_settings() -> None:
    module = BatchNormAct2d(4, act="leaky_relu", negative_slope=0.2)
    assert "act='leaky_relu', negative_slope=0.2" in repr(module)
    with pytest.raises(ValueError, match="act must be one of identity, relu"):
        BatchNormAct2d(4, act="swish")


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
def test_gradients_of_any_layout(strides: str, shape: tuple[int, ...], implementation: str) -> None:
    make = SampleMaker(torch.float32, implementation)
    inputs = channels_first(*shape, training=False)(make)
    other, grad = (_strided_like(shape, strides, make) for _ in range(2))
    found, expected = (
        backward(one, inputs["x"], _norm(inputs), None, False, NO_DROPOUT, two)
        for one, two in ((grad, other), (grad.contiguous(), other.contiguous()))
    )
    for ours, true in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, true)


def test_sum_of_gradients_is_rounded_once(implementation: str) -> None:
    """½ + 2⁻¹¹ + 2⁻¹³, rounded to fp16, is ½ + 2⁻¹¹, and 1 more of that is rounded down; 1 more of the first is not."""
    ones = torch.ones(1, 1, 1, 1, dtype=torch.float16, device=implementation)
    norm = _norm_of_one_channel(implementation, weight=0.5 + 2.0**-11 + 2.0**-13, act="identity")
    dx, *_ = backward(ones, torch.zeros_like(ones), norm, None, False, NO_DROPOUT, ones)
    assert dx.item() == 1.5 + 2.0**-10


def test_backward_of_a_fork_keeps_x_alone(implementation: str) -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        inputs = _draw(implementation, 2, 8, 5, 3)
        batch_norm_act(**inputs, return_input=True)
    assert [tensor.data_ptr() for tensor in kept if tensor.dim() == 4] == [inputs["x"].data_ptr()]
    assert len(kept) == 1 + 3
