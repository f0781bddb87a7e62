"""The description of ``conv2d_stats`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...testing.spec import Case, Inputs, OpSpec, Tolerance
from ...tuning.tables import sizes as sizes_of_rows
from ..sample_inputs import (
    benchmark_convolutions,
    channels_first,
    convolution,
    convolution_alone,
    convolution_flops,
    output_channels,
    random_convolution,
    sizes,
    sliced,
    tuning_convolutions,
)
from .op import conv2d_stats
from .reference import conv2d_stats_reference


def _in_compute_dtype(results: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Statistics of a rounded y are as exact as y: they are judged in its dtype."""
    return tuple(result.to(results[0].dtype) for result in results)


def _function(**inputs: Any) -> tuple[Tensor, ...]:
    return _in_compute_dtype(conv2d_stats(**inputs))


def _reference(**inputs: Any) -> tuple[Tensor, ...]:
    return _in_compute_dtype(conv2d_stats_reference(**inputs))


def _eager(x: Tensor, weight: Tensor, *, stride: int, padding: int) -> tuple[Tensor, ...]:
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    return y, *torch.var_mean(y, dim=(0, 2, 3), correction=0)[::-1]


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    return inputs["x"], inputs["weight"], inputs.get("stride", 1), inputs.get("padding", 0)


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads x and weight, writes y; each gradient reads two of dy, weight and x and writes one."""
    g, size = sizes(inputs), inputs["x"].element_size()
    return 3 * size * (inputs["x"].numel() + inputs["weight"].numel() + g.pixels * g.k)


def _compile_cases() -> dict[str, Case]:
    """At every row, stride 1."""
    return {f"C={c}": convolution(128, c, 32, 32, c) for c in sizes_of_rows(SPEC.name, 512)}


SPEC = OpSpec(
    name="conv2d_stats",
    summary="convolution (3×3 or 1×1, stride 1 or 2) with mean and variance of its output from its epilogue",
    replaces="torch.nn.functional.conv2d",
    function=_function,
    reference=_reference,
    eager=_eager,
    compiled_ops=("cifarfast::conv2d_stats", "cifarfast::conv2d_backward"),
    op_arguments=_op_arguments,
    differentiable=("x", "weight"),
    cases={
        "3x3": convolution(2, 8, 5, 5, 16),
        "boxes": convolution(2, 8, 8, 8, 24),
        "stride 2": convolution(1, 8, 5, 7, 8, stride=2),
        "1x1 stride 2": convolution(2, 16, 4, 3, 8, size=1, stride=2, padding=0),
        "padding 0": convolution(1, 8, 5, 4, 8, padding=0),
        "padding 2": convolution(1, 8, 3, 3, 8, padding=2),
        "one pixel": convolution(4, 8, 1, 1, 16),
        "1x1": convolution(1, 24, 3, 3, 72, size=1, padding=0),
        "channels_first": channels_first(convolution(2, 8, 3, 4, 8)),
        "non-contiguous": sliced,
    },
    random_case=random_convolution,
    benchmark_cases=benchmark_convolutions(),
    tuning_cases=tuning_convolutions(),
    library=("cuDNN convolution alone", convolution_alone),
    tile_size=output_channels,
    flops=convolution_flops,
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
    forward_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
    gradient_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
)
