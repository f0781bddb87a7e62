"""Tests that every op gets from its OpSpec."""

import os
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cifarfast.kernels.testing.check import assert_matches, run, to_float64
from cifarfast.kernels.testing.spec import Case, OpSpec, SampleMaker

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.usefixtures("poisoned_memory")
def test_matches_fp64(spec: OpSpec, case: str, dtype: torch.dtype, implementation: str) -> None:
    if dtype not in spec.dtypes:
        pytest.skip(f"{spec.name} does not run in {dtype}")
    assert_matches(spec, spec.cases[case](SampleMaker(dtype, implementation)))


def test_gradcheck_of_reference(spec: OpSpec, case: str) -> None:
    """Along a random direction, which a wrong derivative of any input shows in."""
    inputs = to_float64(spec.cases[case](SampleMaker(torch.float64)))
    names = [name for name in spec.differentiable if name in inputs]
    if spec.surrogate_gradient(inputs):
        pytest.skip("the gradient is not the derivative")
    if not names:
        pytest.skip("nothing to differentiate")
    assert torch.autograd.gradcheck(
        lambda *tensors: spec.reference(**{**inputs, **dict(zip(names, tensors, strict=True))}),
        [inputs[name].detach().requires_grad_() for name in names],
        eps=2.0**-18,  # a power of two near torch's 1e-6: added to a value near 1e3 it is not rounded
        fast_mode=True,
    )


class Recorded(TorchDispatchMode):
    """The library's ops that are called, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if op.namespace == "cifarfast":
            detached = tuple(arg.detach().clone() if isinstance(arg, torch.Tensor) else arg for arg in args)
            self.calls.append((op, detached, kwargs or {}))
        return op(*args, **(kwargs or {}))


def _kind(args: tuple[object, ...]) -> tuple[object, ...]:
    """What a gradient rule may tell arguments by."""
    return tuple(a if isinstance(a, bool) else (type(a), isinstance(a, str) and a == "identity") for a in args)


def _layout(args: tuple[object, ...]) -> tuple[object, ...]:
    """What a fake kernel may tell arguments by beside that."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    channels_last = (a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last) for a in tensors)
    return (*((a.dtype, a.is_contiguous()) for a in tensors), *channels_last)


def _opcheck(spec: OpSpec, device: str, cases: Sequence[Case]) -> None:
    name = spec.compiled_ops[0].removeprefix("cifarfast::")
    compiled, in_place = (getattr(torch.ops.cifarfast, n).default for n in (name, name.removesuffix("_functional")))
    seen: set[object] = set()
    for case in cases:
        # with statistics in fp32 beside inputs in bf16 a wrong dtype shows
        inputs = case(SampleMaker(torch.bfloat16, device))
        leaves = {leaf: inputs[leaf].clone().requires_grad_() for leaf in spec.differentiable if leaf in inputs}
        arguments = spec.op_arguments(inputs)
        if _kind(arguments) not in seen and not INTERPRETED:
            # of an op shapes that may change are traced for its first case, and fixed ones for the others
            tests = ("test_autograd_registration", f"test_aot_dispatch_{'static' if seen else 'dynamic'}")
            torch.library.opcheck(compiled, spec.op_arguments({**inputs, **leaves}), test_utils=tests)
            seen.add(_kind(arguments))
        with Recorded() as both:
            run(spec, spec.function, inputs)
        with Recorded() as forward, torch.no_grad():
            spec.function(**inputs)
        assert len(both.calls) > len(forward.calls) or not leaves or not forward.calls  # dropout in evaluation
        for op, args, kwargs in [(compiled, arguments, {}), (in_place, arguments, {}), *both.calls, *forward.calls]:
            call = (op, _kind(args), _layout(args))
            if call not in seen:
                torch.library.opcheck(op, args, kwargs, test_utils=("test_schema", "test_faketensor"))
                seen.add(call)


def test_opcheck(spec: OpSpec, implementation: str) -> None:
    """The op that is compiled, and every op that the function and its gradient call, once for each kind of arguments.

    Autograd and torch.compile see one op whatever runs it.
    """
    _opcheck(spec, implementation, list(spec.cases.values())[: 1 if INTERPRETED else None])


@pytest.mark.slow
@pytest.mark.skipif(not INTERPRETED, reason="not slow")
def test_opcheck_of_every_case(spec: OpSpec, implementation: str) -> None:
    _opcheck(spec, implementation, list(spec.cases.values()))


# in half precision kernels take other ways, such as tensor descriptors
@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.usefixtures("not_torch_on_cpu")
def test_deterministic(spec: OpSpec, case: str, compute_dtype: torch.dtype, implementation: str) -> None:
    if INTERPRETED:
        pytest.skip("the interpreter runs programs in order")
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


@_random_inputs(3 if INTERPRETED else 5)  # a GPU compiles kernels for each
@given(data=st.data())
def test_random_inputs(spec: OpSpec, implementation: str, data: st.DataObject) -> None:
    _matches_on_random_inputs(spec, implementation, data)


@pytest.mark.slow
@pytest.mark.long
@_random_inputs(15 if INTERPRETED else 25)
@given(data=st.data())
def test_more_random_inputs(spec: OpSpec, device: str, implementation: str, data: st.DataObject) -> None:
    if device != "cpu":
        pytest.skip("a GPU compiles kernels for each")
    _matches_on_random_inputs(spec, implementation, data)


def test_compiles_fullgraph(spec: OpSpec, dtype: torch.dtype, implementation: str) -> None:
    if INTERPRETED:
        pytest.skip("the graph is that of any implementation")
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
