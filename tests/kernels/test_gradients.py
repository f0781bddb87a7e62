"""What every op's gradient has to do beside being right, which its OpSpec's tests see to."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from norm_inputs import draw_norm
from torch import Tensor

from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker, all_specs

DIFFERENTIABLE = [spec.name for spec in all_specs() if spec.differentiable]
ONCE = [name for name in DIFFERENTIABLE if name not in ("dropout", "shakedrop")]  # these are linear


def _outputs(spec: OpSpec, inputs: Inputs) -> list[Tensor]:
    result = spec.function(**inputs)
    return [
        out for out in (result if isinstance(result, tuple) else (result,)) if out is not None and out.requires_grad
    ]


def _leaves(spec: OpSpec, inputs: Inputs) -> dict[str, Tensor]:
    return {name: inputs[name].clone().requires_grad_() for name in spec.differentiable if name in inputs}


def _forms(spec: OpSpec, inputs: Inputs) -> Iterator[dict[str, Any]]:
    """The options with which an op is another one in torch.library."""
    known = inspect.signature(spec.function).parameters
    yield {}
    if "return_input" in known:
        yield {"return_input": True}
    if "next_norm" in known:
        y = _outputs(spec, {**inputs, **_leaves(spec, inputs)})[-1]
        yield {"next_norm": draw_norm(y.shape[1], str(y.device))}


@pytest.mark.ops(*ONCE)
def test_second_derivative(spec: OpSpec, implementation: str) -> None:
    inputs = next(iter(spec.cases.values()))(SampleMaker(torch.float32, implementation))
    for form in _forms(spec, inputs):
        leaves = _leaves(spec, inputs)
        y = _outputs(spec, {**inputs, **leaves, **form})[-1]
        (gradient,) = torch.autograd.grad(y.square().sum(), next(iter(leaves.values())), create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.square().sum().backward()


@pytest.mark.ops(*DIFFERENTIABLE)
def test_backward_repeats_and_accumulates(spec: OpSpec, implementation: str) -> None:
    inputs = next(iter(spec.cases.values()))(SampleMaker(torch.float32, implementation))
    leaves = _leaves(spec, inputs)
    outputs = _outputs(spec, {**inputs, **leaves})
    cotangents = [torch.ones_like(out) for out in outputs]
    torch.autograd.backward(outputs, cotangents, retain_graph=True)
    once = {name: leaf.grad.clone() for name, leaf in leaves.items()}
    torch.autograd.backward(outputs, cotangents)
    for name, leaf in leaves.items():
        assert torch.equal(leaf.grad, 2 * once[name]), name
    assert all(torch.equal(cotangent, torch.ones_like(cotangent)) for cotangent in cotangents)


@pytest.mark.ops(*DIFFERENTIABLE)
def test_gradient_only_where_needed(spec: OpSpec, implementation: str) -> None:
    first = next(iter(spec.cases))
    for case in {first, "residual", "residual identity"} & spec.cases.keys():
        inputs = spec.cases[case](SampleMaker(torch.float32, implementation))

        def gradients(names: list[str], inputs: Inputs = inputs) -> dict[str, Tensor]:
            leaves = {name: leaf for name, leaf in _leaves(spec, inputs).items() if name in names}
            sum(out.square().sum() for out in _outputs(spec, {**inputs, **leaves})).backward()
            return {name: leaf.grad for name, leaf in leaves.items()}

        expected = gradients([*spec.differentiable])
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients([name])[name], gradient, msg=f"{case}: {name}")
