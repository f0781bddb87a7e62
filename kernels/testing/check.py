"""Judging an op against its reference in fp64: what the generated tests share with the benchmark's gate."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .spec import Inputs, OpSpec, Tolerance, normal


def to_float64(inputs: Inputs) -> Inputs:
    """The same values with every floating-point tensor in fp64."""
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def run(spec: OpSpec, function: Callable[..., Any], inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of a function, and the gradients of all differentiable inputs for fixed random cotangents.

    What a function in place writes is cloned first; the clones are outputs, after those that it returns.
    """
    inputs = {
        name: value.clone() if isinstance(value, Tensor) and name in (*spec.mutates, *spec.advances) else value
        for name, value in inputs.items()
    }
    names = [name for name in spec.differentiable if name in inputs]
    inputs = {**inputs, **{name: inputs[name].detach().requires_grad_() for name in names}}
    result = function(**inputs)
    mutated = tuple(inputs[name] for name in spec.mutates if inputs.get(name) is not None)
    if result is None:
        result, mutated = mutated, ()
    outputs = list(result) if isinstance(result, tuple) else [result]
    if not names:
        return [*outputs, *mutated], []
    gradients = torch.autograd.grad(outputs, [inputs[name] for name in names], cotangents_for(outputs))
    return [out.detach() for out in (*outputs, *mutated)], list(gradients)


def cotangents_for(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Fixed random gradients of outputs, exact in every dtype."""
    generator = torch.Generator().manual_seed(1)
    return [normal(out.shape, generator, out.device, torch.bfloat16).to(out.dtype) for out in outputs]


def assert_close(
    name: str,
    out: Tensor,
    same_dtype: Tensor,
    truth: Tensor,
    tolerance: Tolerance,
    floor: float = 0.0,
    scale: Tensor | None = None,
) -> None:
    """Apply both rules of ``Tolerance``: element-wise and by relative RMS; and everything is finite.

    ``floor`` is the least RMS to measure errors by, for random inputs whose result may nearly cancel; at most 1 in the
    rule about the RMS, in which a few such values do not weigh. ``scale`` is what ``OpSpec.error_bounds`` says.
    """
    assert out.shape == truth.shape, f"{name}: shape {list(out.shape)}, expected {list(truth.shape)}"
    info = torch.finfo(out.dtype)
    ulps, rms_ulps = tolerance.of(out.dtype)
    subnormal = info.smallest_normal * info.eps
    out, same_dtype, truth = out.double(), same_dtype.double(), truth.double()
    assert out.isfinite().all(), f"{name}: not finite"
    rms = truth.square().mean().sqrt()
    error = (out - truth).abs()
    if scale is None:
        unit = info.eps * (truth.abs() + rms.clamp_min(floor))
        rms_unit = info.eps * rms.clamp_min(min(floor, 1.0))
    else:
        assert scale.shape == truth.shape, f"{name}: rounding scale of shape {list(scale.shape)}"
        single = torch.finfo(torch.float32)
        unit = info.eps * truth.abs() + min(info.eps, single.eps) * scale
        rms_unit = unit.square().mean().sqrt()
        # two roundings below the normal numbers; and a GPU may take those of fp32 for 0
        subnormal = max(2 * subnormal, single.smallest_normal)
    allowed = 2 * (same_dtype - truth).abs() + ulps * unit + subnormal
    worst = (error / allowed).max().item()
    assert worst <= 1, f"{name}: error {worst:.2f} times what is allowed"
    relative = error.square().mean().sqrt() / (rms_unit + subnormal)
    assert relative <= rms_ulps, f"{name}: relative RMS error {relative.item():.2f} eps"


class Expectation:
    """What an op must return for some inputs: outputs and gradients of its reference, in fp64 and in the op's dtypes.

    Args:
        spec: of the op.
        inputs: keyword arguments.
        floor: see ``assert_close``.
    """

    def __init__(self, spec: OpSpec, inputs: Inputs, *, floor: float = 0.0) -> None:
        self.spec, self.inputs, self.floor = spec, inputs, floor
        self.true_outputs, self.true_gradients = run(spec, spec.reference, to_float64(inputs))
        self.same_outputs, self.same_gradients = run(spec, spec.reference, inputs)
        self.output_scales: Sequence[Tensor | None] = [None] * len(self.true_outputs)
        self.gradient_scales: Sequence[Tensor | None] = [None] * len(self.true_gradients)
        if spec.error_bounds is not None:
            cotangents = cotangents_for(self.true_outputs)
            scales, self.gradient_scales = spec.error_bounds(to_float64(inputs), cotangents)
            self.output_scales = [*scales, *[None] * (len(self.true_outputs) - len(scales))]  # none of buffers

    def check(self, function: Callable[..., Any] | None = None) -> None:
        """Check outputs and every gradient of the op, or of ``function``, and that no input is written."""
        spec, inputs = self.spec, self.inputs
        before = {name: (value.clone(), value._version) for name, value in inputs.items() if isinstance(value, Tensor)}
        outputs, gradients = run(spec, function or spec.function, inputs)
        for name, (values, version) in before.items():
            assert inputs[name]._version == version, f"{name} was written to"
            # a buffer that an op in place is to overwrite is full of NaN
            assert torch.equal(inputs[name].nan_to_num(), values.nan_to_num()), f"{name} was modified"
        for i, out in enumerate(outputs):
            truth = (self.same_outputs[i], self.true_outputs[i])
            assert_close(f"output {i}", out, *truth, spec.forward_tolerance, self.floor, self.output_scales[i])
        names = [name for name in spec.differentiable if name in inputs]
        for i, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
            assert gradient.dtype == inputs[name].dtype
            truth = (self.same_gradients[i], self.true_gradients[i])
            scale = self.gradient_scales[i]
            assert_close(f"gradient of {name}", gradient, *truth, spec.gradient_tolerance, self.floor, scale)


def assert_matches(
    spec: OpSpec, inputs: Inputs, function: Callable[..., Any] | None = None, *, floor: float = 0.0
) -> None:
    """Check outputs and every gradient of an op against its reference in fp64, and that no input is written."""
    Expectation(spec, inputs, floor=floor).check(function)


def training_step(function: Callable[..., Any], inputs: Inputs, leaves: Sequence[str]) -> Callable[[], None]:
    """One forward and backward to the inputs named ``leaves``, with fixed cotangents; the gradients are thrown away.

    A leaf that the function does not use gets none.
    """
    names = [name for name in leaves if name in inputs]
    inputs = {**inputs, **{name: inputs[name].detach().requires_grad_() for name in names}}
    tensors = [inputs[name] for name in names]
    if not tensors:
        return lambda: function(**inputs)

    def forward() -> list[Tensor]:
        result = function(**inputs)
        return list(result) if isinstance(result, tuple) else [result]

    cotangents = [torch.ones_like(out) for out in forward()]

    def step() -> None:
        torch.autograd.grad(forward(), tensors, cotangents, allow_unused=True)

    return step
