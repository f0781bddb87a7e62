"""Rounding, gradients, memory and errors of ``add_batch_norm_act``, beyond what its OpSpec generates."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cifarfast.kernels import AddBatchNormAct2d, add_batch_norm_act, batch_norm_act
from cifarfast.kernels.batch_norm.add_batch_norm_act.spec import split
from cifarfast.kernels.batch_norm.sample_inputs import channels_last, offset
from cifarfast.kernels.testing.check import assert_matches
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker
from cifarfast.kernels.tuning import tables as tuning


def _draw(device: str, dtype: torch.dtype = torch.float32, **settings: object) -> Inputs:
    """Terms whose sum is rounded."""
    make = SampleMaker(dtype, device)
    inputs = channels_last(3, 8, 5, 3, **settings)(make)
    a = inputs.pop("x").requires_grad_()
    return {"a": a, "b": make.randn(3, 8, 5, 3).requires_grad_(), **inputs}


@pytest.mark.parametrize("training", [True, False])
def test_the_batch_norm_is_that_of_the_rounded_sum(
    training: bool, dtype: torch.dtype, backend_name: str, implementation: str
) -> None:
    if dtype == torch.bfloat16 and (backend_name, implementation) == ("triton", "cpu"):
        pytest.skip("Triton's interpreter cuts bf16 off instead of rounding it")
    inputs = _draw(implementation, dtype, training=training)
    a, b, *buffers = (inputs[name] for name in ("a", "b", "running_mean", "running_var"))
    others = {name: inputs[name] for name in ("weight", "bias", "training")}
    apart = [buffer.clone() for buffer in buffers]
    s, y = add_batch_norm_act(**inputs)
    assert s.dtype == y.dtype == dtype
    assert torch.equal(s, a + b)
    torch.testing.assert_close(y, batch_norm_act(s.detach(), *apart, **others))
    torch.testing.assert_close(buffers, apart, rtol=1e-6, atol=1e-6)


@pytest.fixture
def few_programs() -> Iterator[None]:
    """Tiles so small and programs so few that every program walks through several tiles."""
    row = {"block_m": 16, "block_c": 16, "num_warps": 4, "stages": 4, "programs": 5}
    with tuning.override(dict.fromkeys(("add_batch_norm_act", "batch_norm_act"), row)):
        yield


@pytest.mark.usefixtures("few_programs", "poisoned_memory")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 8, 9, 7), (2, 24, 7, 7)])
def test_many_tiles_in_a_program(shape: tuple[int, ...], training: bool, spec: OpSpec, implementation: str) -> None:
    case = split(channels_last(*shape, act="leaky_relu", training=training))
    assert_matches(spec, case(SampleMaker(torch.float32, implementation)))


def test_large_mean_and_small_deviation(implementation: str) -> None:
    inputs = split(offset(8, 4, 8, 8, act="identity", momentum=1.0))(SampleMaker(torch.float32, implementation))
    s, _ = add_batch_norm_act(**inputs)
    torch.testing.assert_close(inputs["running_var"].double(), s.double().var(dim=(0, 2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(inputs["running_mean"].double(), s.double().mean(dim=(0, 2, 3)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_backward_keeps_the_sum_alone(training: bool, implementation: str) -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        inputs = _draw(implementation, training=training)
        s, y = add_batch_norm_act(**inputs)
    assert torch.equal(*torch.autograd.grad(s.sin().sum() + y.sin().sum(), (inputs["a"], inputs["b"])))
    assert [tensor.data_ptr() for tensor in kept if tensor.dim() == 4] == [s.data_ptr()]
    assert len(kept) == 1 + 3


def test_empty_batch_in_eval(implementation: str) -> None:
    inputs = _draw(implementation, training=False)
    s, y = add_batch_norm_act(**{**inputs, "a": inputs["a"][:0], "b": inputs["b"][:0]})
    assert s.shape == y.shape == (0, 8, 5, 3)


def test_statistics_that_are_not_tracked_stay(implementation: str) -> None:
    module = AddBatchNormAct2d(4).to(implementation)
    module.track_running_stats = False
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(*SampleMaker(torch.float32, implementation).randn(2, 3, 4, 2, 2).unbind())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
