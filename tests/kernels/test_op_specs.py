"""Tests that every op gets from its OpSpec."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifarfast.kernels.check import assert_matches, run, to_float64
from cifarfast.kernels.spec import Maker, OpSpec


@pytest.mark.usefixtures("poisoned_memory")
def test_matches_fp64(spec: OpSpec, case: str, dtype: torch.dtype, backend_name: str, implementation: str) -> None:
    if dtype not in spec.dtypes:
        pytest.skip(f"{spec.name} does not run in {dtype}")
    assert_matches(spec, spec.cases[case](Maker(dtype, implementation)))


def test_gradcheck_of_reference(spec: OpSpec, case: str) -> None:
    inputs = to_float64(spec.cases[case](Maker(torch.float64)))
    names = [name for name in spec.differentiable if name in inputs]
    if spec.surrogate_gradient(inputs):
        pytest.skip("the gradient is not the derivative")
    if not names:
        pytest.skip("nothing to differentiate")
    if sum(inputs[name].numel() for name in names) > 700:
        pytest.skip("too large for finite differences")
    values = [inputs[name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *tensors: spec.reference(**{**inputs, **dict(zip(names, tensors, strict=True))}),
        values,
        eps=2.0**-18,  # a power of two near torch's 1e-6: added to a value near 1e3 it is not rounded
    )


def test_opcheck(spec: OpSpec, case: str, backend_name: str, implementation: str) -> None:
    inputs = spec.cases[case](Maker(torch.float32, implementation))
    for name in spec.differentiable:
        if name in inputs:
            inputs[name] = inputs[name].detach().requires_grad_()
    namespace, name = spec.compiled_ops[0].split("::")
    torch.library.opcheck(getattr(getattr(torch.ops, namespace), name).default, spec.op_arguments(inputs))


def test_deterministic(spec: OpSpec, case: str, backend_name: str, implementation: str) -> None:
    inputs = spec.cases[case](Maker(torch.float32, implementation))
    first, second = (run(spec, spec.function, inputs) for _ in range(2))
    for a, b in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
        assert torch.equal(a, b)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_inputs(spec: OpSpec, backend_name: str, implementation: str, data: st.DataObject) -> None:
    maker = Maker(torch.float32, implementation, seed=data.draw(st.integers(0, 1000)))
    inputs = spec.random_case(maker, lambda low, high: data.draw(st.integers(low, high)))
    assert_matches(spec, inputs, floor=spec.random_floor(inputs))


def test_compiles_fullgraph(spec: OpSpec, dtype: torch.dtype, backend_name: str, implementation: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(spec.function, fullgraph=True, backend="aot_eager")
    case = next(iter(spec.cases.values()))
    assert_matches(spec, case(Maker(dtype, implementation)), compiled)


@pytest.mark.slow
def test_compiles_with_inductor(spec: OpSpec, backend_name: str, implementation: str) -> None:
    for case in spec.cases.values():
        torch.compiler.reset()
        compiled = torch.compile(spec.function, fullgraph=True)
        assert_matches(spec, case(Maker(torch.float32, implementation)), compiled)


def test_fp64_stays_fp64(spec: OpSpec, case: str) -> None:
    inputs = spec.cases[case](Maker(torch.float64))
    outputs, gradients = run(spec, spec.function, inputs)
    assert all(tensor.dtype == torch.float64 for tensor in [*outputs, *gradients])


def test_describes_itself(spec: OpSpec) -> None:
    assert spec.docs_row().count("|") == 5
    assert f"`{spec.name}`" in spec.docs_row()
    assert spec.compiled_ops[0].startswith("cifarfast::")
    for case in spec.benchmark_cases.values():
        inputs = case(Maker(torch.bfloat16))
        assert spec.flops(inputs) > 0
        assert spec.bytes_moved(inputs) >= sum(inputs[name].nbytes for name in spec.differentiable if name in inputs)
