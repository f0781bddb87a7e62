"""The judge of every op: what it lets pass and what not."""

import dataclasses
import functools
from typing import Any

import pytest
import torch

from cifarfast.kernels.testing.check import Expectation, assert_close, assert_matches
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker, Tolerance, all_specs

EPS = torch.finfo(torch.float32).eps
WITH_SCALE = [spec for spec in all_specs() if spec.error_bounds]


def judge(error: float, *, truth: float = 1.0, scale: float | None = None, dtype: torch.dtype = torch.float32) -> None:
    out, exact = torch.tensor([truth + error], dtype=torch.float64), torch.tensor([truth], dtype=torch.float64)
    scales = None if scale is None else torch.tensor([scale], dtype=torch.float64)
    assert_close("x", out.to(dtype), exact.to(dtype), exact, Tolerance(2.0, 2.0), scale=scales)


def test_without_a_scale_the_result_is_the_unit() -> None:
    judge(1.9 * EPS)
    with pytest.raises(AssertionError, match="x: "):
        judge(8 * EPS)


def test_a_sum_that_cancels_is_judged_by_its_terms() -> None:
    judge(1.9 * EPS, truth=1e-9, scale=1.0)
    with pytest.raises(AssertionError, match="x: error"):
        judge(2.5 * EPS, truth=1e-9, scale=1.0)
    with pytest.raises(AssertionError, match="x: error"):
        judge(1.9 * EPS, truth=1e-9)


def test_a_half_precision_result_is_judged_by_its_own_roundings() -> None:
    half = torch.finfo(torch.bfloat16).eps
    judge(0.9 * half, scale=1.0, dtype=torch.bfloat16)
    with pytest.raises(AssertionError, match="x: error"):
        judge(4 * half, scale=1.0, dtype=torch.bfloat16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_wrong(value: float) -> None:
    with pytest.raises(AssertionError, match="not finite"):
        assert_close("x", torch.tensor([value]), torch.ones(1), torch.ones(1), Tolerance())


class Stretched(torch.autograd.Function):
    """The identity with a gradient that is too large by a factor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None


@pytest.mark.parametrize("op", all_specs(), ids=lambda spec: spec.name)
def test_three_percent_are_found_in_half_precision(op: OpSpec) -> None:
    inputs = next(iter(op.cases.values()))(SampleMaker(torch.bfloat16))
    expectation = Expectation(op, inputs)

    def too_large(*, forward: float = 1.0, backward: float = 1.0, **arguments: Any) -> Any:
        result = op.function(**arguments)
        if result is None:
            for name in op.mutates:
                if arguments[name] is not None:
                    arguments[name].mul_(forward)
            return None
        single = isinstance(result, torch.Tensor)
        results = tuple(out * forward for out in ((result,) if single else result))
        results = tuple(Stretched.apply(out, backward) if out.requires_grad else out for out in results)
        return results[0] if single else results

    expectation.check(too_large)
    with pytest.raises(AssertionError, match="output 0: "):
        expectation.check(functools.partial(too_large, forward=1.03))
    if op.differentiable:
        with pytest.raises(AssertionError, match="gradient of "):
            expectation.check(functools.partial(too_large, backward=1.03))


@pytest.mark.parametrize("scaled", WITH_SCALE, ids=lambda spec: spec.name)
def test_an_error_of_a_few_roundings_is_found(scaled: OpSpec) -> None:
    inputs = next(iter(scaled.cases.values()))(SampleMaker(torch.float32))
    expectation = Expectation(scaled, inputs)
    expectation.check()
    for scales in (expectation.output_scales, expectation.gradient_scales):
        assert scales[0] is not None
        for scale in scales:  # what an op updates in place has none
            assert scale is None or ((scale >= 0).all() and scale.isfinite().all())

    def slightly_wrong(**arguments: Any) -> torch.Tensor:
        result = scaled.function(**arguments)
        return result * (1 + 1e-4)

    with pytest.raises(AssertionError, match="output 0: error"):
        expectation.check(slightly_wrong)


def test_a_written_input_is_found() -> None:
    spec = next(spec for spec in all_specs() if spec.name == "global_avg_pool_act")
    inputs = spec.cases["relu"](SampleMaker(torch.float32))

    def writes(**arguments: Any) -> torch.Tensor:
        result = spec.function(**arguments)
        inputs["x"].add_(1)
        return result

    with pytest.raises(AssertionError, match="x was written to"):
        assert_matches(dataclasses.replace(spec, function=writes), inputs)
