"""Rounding, gradients, memory and errors of ``add_batch_norm_act``, beyond what its OpSpec generates."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@pytest.mark.parametrize("used", ["both", "s", "y"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_both_results(training: bool, used: str, implementation: str) -> None:
    inputs = _draw(implementation, training=training, act="silu")
    leaves = [inputs[name].requires_grad_() for name in ("a", "b", "weight", "bias")]
    s, y = add_batch_norm_act(**inputs)
    total = inputs["a"] + inputs["b"]
    z = F.batch_norm(total, inputs["running_mean"], inputs["running_var"], *leaves[2:], training)
    ours = {"s": s, "y": y}
    theirs = {"s": total, "y": F.silu(z)}
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
    assert torch.equal(found[0], found[1])


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


@pytest.mark.parametrize("sample", ["relu", "bare", "cumulative", "mixed layouts", "eval"])
def test_op_that_mutates_passes_opcheck(sample: str, spec: OpSpec, implementation: str) -> None:
    arguments = spec.op_arguments(spec.cases[sample](SampleMaker(torch.float32, implementation)))
    torch.library.opcheck(torch.ops.cifarfast.add_batch_norm_act.default, arguments)


@pytest.mark.parametrize("training", [True, False])
def test_backward_keeps_the_sum_alone(training: bool, implementation: str) -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        s, _ = add_batch_norm_act(**_draw(implementation, training=training))
    assert [tensor.data_ptr() for tensor in kept if tensor.dim() == 4] == [s.data_ptr()]
    assert len(kept) == 1 + 3


def test_second_derivative(implementation: str) -> None:
    inputs = _draw(implementation, training=True)
    (gradient,) = torch.autograd.grad(add_batch_norm_act(**inputs)[1].sum(), inputs["a"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()


def test_empty_batch_in_eval(implementation: str) -> None:
    inputs = _draw(implementation, training=False)
    s, y = add_batch_norm_act(**{**inputs, "a": inputs["a"][:0], "b": inputs["b"][:0]})
    assert s.shape == y.shape == (0, 8, 5, 3)


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}], ids=str
)
def test_module_mirrors_torch(options: dict[str, bool | None], implementation: str) -> None:
    torchs = nn.BatchNorm2d(6, **options).to(implementation)
    ours = AddBatchNormAct2d(6, **options).to(implementation)
    ours.load_state_dict(torchs.state_dict())
    make = SampleMaker(torch.float32, implementation)
    for training in (True, True, False):
        a, b = make.randn(3, 6, 4, 5) * 2 + 1, make.randn(3, 6, 4, 5)
        ours.train(training)
        torchs.train(training)
        s, y = ours(a, b)
        torch.testing.assert_close(y, F.relu(torchs(a + b)), rtol=1e-5, atol=1e-5)
        assert torch.equal(s, a + b)
    for (name, mine), theirs in zip(ours.state_dict().items(), torchs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


def test_statistics_that_are_not_tracked_stay(implementation: str) -> None:
    module = AddBatchNormAct2d(4).to(implementation)
    module.track_running_stats = False
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(*SampleMaker(torch.float32, implementation).randn(2, 3, 4, 2, 2).unbind())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("training", [True, False])
def test_module_compiles_fullgraph(training: bool, implementation: str) -> None:
    """With and without a use of the sum beside the batch norm."""
    module = AddBatchNormAct2d(5).to(implementation).train(training)
    a, b = (t.requires_grad_() for t in SampleMaker(torch.float32, implementation).randn(2, 2, 5, 3, 3).unbind())
    for sum_is_used in (True, False):

        def block(a: Tensor, b: Tensor, used: bool = sum_is_used) -> Tensor:
            s, y = module(2 * a, b)
            return y.sin() * s if used else y.sin()

        torch.compiler.reset()
        results = [function(a, b) for function in (torch.compile(block, fullgraph=True, backend="aot_eager"), block)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*(torch.autograd.grad(result.sum(), [a, b]) for result in results))
    assert module.num_batches_tracked.item() == 4 * training


def _arguments(**changes: object) -> dict[str, object]:
    vectors = {name: torch.ones(3) for name in ("running_mean", "running_var", "weight", "bias")}
    return {"a": torch.zeros(2, 3, 4, 4), "b": torch.zeros(2, 3, 4, 4), **vectors, "training": True, **changes}


WRONG = {
    "three dimensions": (_arguments(a=torch.zeros(2, 3, 4)), "a"),
    "integers": (_arguments(a=torch.zeros(2, 3, 4, 4, dtype=torch.int64)), "a"),
    "one value per channel": (_arguments(a=torch.zeros(1, 3, 1, 1), b=torch.zeros(1, 3, 1, 1)), "a"),
    "shapes": (_arguments(b=torch.zeros(2, 3, 1, 1)), "b"),
    "dtypes": (_arguments(b=torch.zeros(2, 3, 4, 4).half()), "b"),
    "devices": (_arguments(b=torch.zeros(2, 3, 4, 4, device="meta")), "b"),
    "number of channels": (_arguments(a=torch.zeros(2, 4, 4, 4), b=torch.zeros(2, 4, 4, 4)), "running_mean"),
    "weight alone": (_arguments(bias=None), "bias"),
    "no statistics in eval": (_arguments(running_mean=None, running_var=None, training=False), "running_mean"),
    "momentum": (_arguments(momentum=1.5), "momentum"),
    "act": (_arguments(act="swish"), "act"),
    "sparse a": (_arguments(a=torch.zeros(2, 3, 4, 4).to_sparse()), "a"),
    "sparse b": (_arguments(b=torch.zeros(2, 3, 4, 4).to_sparse()), "b"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_name_the_argument(mistake: str) -> None:
    arguments, name = WRONG[mistake]
    with pytest.raises(ValueError, match=rf"^{name} "):
        add_batch_norm_act(**arguments)
