"""Tests that every op gets from its OpSpec."""

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cifarfast.kernels.testing.check import assert_matches, run, to_float64
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Recorded(TorchDispatchMode):
    """The library's ops that are called, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if op.namespace == "cifarfast":
            detached = tuple(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args)
            self.calls.append((op, detached, kwargs or {}))
        return op(*args, **(kwargs or {}))


@pytest.mark.usefixtures("poisoned_memory")
def test_matches_fp64(spec: OpSpec, case: str, dtype: torch.dtype, implementation: str) -> None:
    if dtype not in spec.dtypes:
        pytest.skip(f"{spec.name} does not run in {dtype}")
    assert_matches(spec, spec.cases[case](SampleMaker(dtype, implementation)))


def test_gradcheck_of_reference(spec: OpSpec, case: str) -> None:
    inputs = to_float64(spec.cases[case](SampleMaker(torch.float64)))
    names = [name for name in spec.differentiable if name in inputs]
    if spec.surrogate_gradient(inputs):
        pytest.skip("the gradient is not the derivative")
    if not names:
        pytest.skip("nothing to differentiate")
    values = [inputs[name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *tensors: spec.reference(**{**inputs, **dict(zip(names, tensors, strict=True))}),
        values,
        eps=2.0**-18,  # a power of two near torch's 1e-6: added to a value near 1e3 it is not rounded
        fast_mode=sum(value.numel() for value in values) > 700,  # a random projection of the derivative
    )


def _given(spec: OpSpec, case: str) -> list[object]:
    """What an op's gradient rule tells cases by: which tensors there are, flags, and whether there is an activation."""
    arguments = spec.op_arguments(spec.cases[case](SampleMaker(torch.bfloat16)))
    return [
        arg if isinstance(arg, bool) else (type(arg), isinstance(arg, str) and arg == "identity") for arg in arguments
    ]


def test_opcheck(spec: OpSpec, case: str, implementation: str) -> None:
    checks = ["test_schema", "test_faketensor"]
    first = next(iter(spec.cases))
    # autograd and torch.compile see one op whatever runs it, and the interpreter is slow
    same = first if INTERPRETED else next(other for other in spec.cases if _given(spec, other) == _given(spec, case))
    again = implementation == "cpu" and case != same
    everything = checks if again else [*checks, "test_autograd_registration", "test_aot_dispatch_dynamic"]
    # with statistics in fp32 beside inputs in bf16 a wrong dtype shows
    inputs = spec.cases[case](SampleMaker(torch.bfloat16, implementation))
    for name in spec.differentiable:
        if name in inputs:
            inputs[name] = inputs[name].detach().requires_grad_()
    namespace, name = spec.compiled_ops[0].split("::")
    op = getattr(getattr(torch.ops, namespace), name).default
    torch.library.opcheck(op, spec.op_arguments(inputs), test_utils=everything)
    # its backward op, with the arguments that autograd gives it
    results = op(*spec.op_arguments(inputs))
    results = results if isinstance(results, tuple) else (results,)
    outputs = [out for out in results if isinstance(out, torch.Tensor) and out.requires_grad]
    with Recorded() as recorded:
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])
    assert bool(recorded.calls) == bool(outputs)
    for backward, args, kwargs in recorded.calls:
        torch.library.opcheck(backward, args, kwargs, test_utils=checks)


# in half precision kernels take other ways, such as tensor descriptors
@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.usefixtures("not_torch_on_cpu")
def test_deterministic(spec: OpSpec, case: str, compute_dtype: torch.dtype, implementation: str) -> None:
    if INTERPRETED and (compute_dtype == torch.float32 or case != next(iter(spec.cases))):
        pytest.skip("the interpreter runs programs in order: one case of an op is enough")
    inputs = spec.cases[case](SampleMaker(compute_dtype, implementation))
    first, second = (run(spec, spec.function, inputs) for _ in range(2))
    for a, b in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
        assert torch.equal(a, b)


def _random_inputs(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,  # what fails has changed
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def _matches_on_random_inputs(spec: OpSpec, implementation: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(spec.dtypes))
    maker = SampleMaker(dtype, implementation, seed=data.draw(st.integers(0, 1000)))
    inputs = spec.random_case(maker, lambda low, high: data.draw(st.integers(low, high)))
    assert_matches(spec, inputs, floor=spec.random_floor(inputs))


@_random_inputs(5)  # a GPU compiles kernels for each
@given(data=st.data())
def test_random_inputs(spec: OpSpec, implementation: str, data: st.DataObject) -> None:
    _matches_on_random_inputs(spec, implementation, data)


@pytest.mark.slow
@_random_inputs(15 if INTERPRETED else 25)
@given(data=st.data())
def test_more_random_inputs(spec: OpSpec, device: str, implementation: str, data: st.DataObject) -> None:
    if device != "cpu":
        pytest.skip("a GPU compiles kernels for each")
    _matches_on_random_inputs(spec, implementation, data)


def test_compiles_fullgraph(spec: OpSpec, dtype: torch.dtype, implementation: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(spec.function, fullgraph=True, backend="aot_eager")
    case = next(iter(spec.cases.values()))
    assert_matches(spec, case(SampleMaker(dtype, implementation)), compiled)


@pytest.mark.slow
def test_compiles_with_inductor(spec: OpSpec, implementation: str) -> None:
    for case in spec.cases.values():
        torch.compiler.reset()
        compiled = torch.compile(spec.function, fullgraph=True)
        assert_matches(spec, case(SampleMaker(torch.float32, implementation)), compiled)


def test_fp64_stays_fp64(spec: OpSpec, case: str) -> None:
    inputs = spec.cases[case](SampleMaker(torch.float64))
    outputs, gradients = run(spec, spec.function, inputs)
    assert all(tensor.dtype == torch.float64 for tensor in [*outputs, *gradients])


def test_describes_itself(spec: OpSpec) -> None:
    assert spec.docs_row().count("|") == 5
    assert f"`{spec.name}`" in spec.docs_row()
    assert spec.compiled_ops[0].startswith("cifarfast::")
    for case in spec.benchmark_cases.values():
        inputs = case(SampleMaker(torch.bfloat16))
        assert spec.flops(inputs) > 0
        assert spec.bytes_moved(inputs) >= sum(inputs[name].nbytes for name in spec.differentiable if name in inputs)
