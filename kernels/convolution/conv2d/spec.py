"""The description of ``conv2d`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, Tolerance
from ...tuning.tables import sizes as sizes_of_rows
from .. import sample_inputs as sample
from .op import conv2d, forward


def _timed(case: Case) -> Case:
    """The same with a batch norm after it, whose statistics are made in the time that is measured."""

    def with_norm(make: SampleMaker) -> Inputs:
        inputs = case(make)
        norm = nn.BatchNorm2d(sample.sizes(inputs).k, affine=False, device=inputs["x"].device)
        return {**inputs, "next_norm": norm}

    return with_norm


def _function(*, next_norm: Any = None, **inputs: Any) -> Tensor:
    """The convolution's output; no gradient goes to its statistics."""
    y: Any = conv2d(next_norm=next_norm, **inputs)
    return y if next_norm is None else y[0]


def _reference(x: Tensor, weight: Tensor, *, next_norm: Any = None, **geometry: Any) -> Tensor:
    return F.conv2d(x, weight, **geometry)


def _eager(x: Tensor, weight: Tensor, *, next_norm: Any = None, **geometry: Any) -> Tensor:
    y = F.conv2d(x, weight, **geometry)
    if next_norm is not None:
        var, mean = torch.var_mean(y.detach(), dim=(0, 2, 3))
        next_norm.running_mean.lerp_(mean.float(), next_norm.momentum)
        next_norm.running_var.lerp_(var.float(), next_norm.momentum)
    return y


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    wants_statistics = sample.sizes(inputs).pixels > 1
    return forward.flatten(
        inputs["x"], inputs["weight"], sample.next_state(inputs), wants_statistics, sample.settings(inputs)
    )


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads x and weight, writes y; each gradient reads two of dy, weight and x and writes one."""
    g, size = sample.sizes(inputs), inputs["x"].element_size()
    return 3 * size * (inputs["x"].numel() + inputs["weight"].numel() + g.pixels * g.k)


def _compile_cases() -> dict[str, Case]:
    """At every row, stride 1, with a batch norm after."""
    return {f"C={c}": _timed(sample.convolution(128, c, 32, 32, c)) for c in sizes_of_rows(SPEC.name, 512)}


SPEC = OpSpec(
    name="conv2d",
    summary="convolution (3×3 or 1×1, stride 1 or 2) with the statistics for the batch norm after it from its epilogue",
    function=_function,
    reference=_reference,
    eager=_eager,
    compiled_ops=("cifarfast::conv2d_functional", "cifarfast::conv2d_backward"),
    op_arguments=_op_arguments,
    differentiable=("x", "weight"),
    cases={
        "3x3": sample.convolution(2, 8, 5, 5, 16),
        "boxes": sample.convolution(2, 8, 8, 8, 24),
        "stride 2": sample.convolution(1, 8, 5, 7, 8, stride=2),
        "1x1 stride 2": sample.convolution(2, 16, 4, 3, 8, size=1, stride=2, padding=0),
        "padding 0": sample.convolution(1, 8, 5, 4, 8, padding=0),
        "padding 2": sample.convolution(1, 8, 3, 3, 8, padding=2),
        "one pixel": sample.convolution(4, 8, 1, 1, 16),
        "1x1": sample.convolution(1, 24, 3, 3, 72, size=1, padding=0),
        "channels_first": sample.channels_first(sample.convolution(2, 8, 3, 4, 8)),
        "non-contiguous": sample.sliced,
    },
    random_case=sample.random_convolution,
    benchmark_cases={name: _timed(case) for name, case in sample.benchmark_convolutions().items()},
    tuning_cases={name: _timed(case) for name, case in sample.tuning_convolutions().items()},
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
    gradient_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
    **sample.CONVOLUTION_OP,
)
