"""The description of ``conv2d_bn_act`` for tests, benchmarks, compile report and docs."""

from typing import Any

from ..conv_bn_act.builds import convolution_builds, folded_builds
from ..conv_bn_act.cases import (
    benchmark_convolutions,
    channels_first,
    convolution,
    convolution_flops,
    random_convolution,
    running_statistics,
    sizes,
    sliced,
    with_norm,
    without_parameters,
)
from ..spec import Case, Inputs, KernelBuild, Maker, OpSpec, Tolerance
from .op import conv2d_bn_act
from .reference import conv2d_bn_act_reference


def _normed(case: Case, **settings: Any) -> Case:
    return with_norm(case, norm_first=False, **settings)


def _random(make: Maker, draw_int: Any) -> Inputs:
    # a kink's side would depend on the last digit of a sum, and with ε near 0 a normalised value too
    settings: Inputs = {"act": ("silu", "identity", "sigmoid", "tanh")[draw_int(0, 3)], "eps": 0.1}
    inputs = _normed(lambda make: random_convolution(make, draw_int), **settings)(make)
    return {**inputs, "training": draw_int(0, 2) > 0 and sizes(inputs).pixels > 1}


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    training = inputs["training"]
    stats = inputs["x"].new_empty(0) if training else running_statistics(inputs)
    settings = (training, inputs.get("eps", 1e-5), inputs.get("act", "relu"), inputs.get("negative_slope", 0.01))
    geometry = (inputs.get("stride", 1), inputs.get("padding", 0))
    return inputs["x"], inputs["conv_weight"], stats, inputs.get("weight"), inputs.get("bias"), *settings, *geometry


def _bytes_moved(inputs: Inputs) -> int:
    """y is written and read in forward; backward reads it and dz twice, writes dy, which two gradients read."""
    g, size = sizes(inputs), inputs["x"].element_size()
    return size * (3 * inputs["x"].numel() + 3 * inputs["conv_weight"].numel() + 10 * g.pixels * g.k)


def _kernels() -> list[KernelBuild]:
    return convolution_builds("conv2d_bn_act", prologue=False) + folded_builds("conv2d_bn_act")


SPEC = OpSpec(
    name="conv2d_bn_act",
    summary="act(BN(conv(x))), statistics from the convolution's epilogue; in eval one kernel with BN folded in",
    replaces="torch.nn.functional.conv2d",
    function=conv2d_bn_act,
    reference=conv2d_bn_act_reference,
    eager=conv2d_bn_act_reference,
    compiled_ops=(
        "cifarfast::conv2d_bn_act",
        "cifarfast::conv2d_bn_act_folded",
        "cifarfast::moments_statistics",
        "cifarfast::conv2d_bn_act_backward",
    ),
    op_arguments=_op_arguments,
    differentiable=("x", "conv_weight", "weight", "bias"),
    cases={
        "3x3": _normed(convolution(2, 8, 5, 5, 16)),
        "boxes": _normed(convolution(2, 8, 8, 8, 24), act="sigmoid"),
        "stride 2": _normed(convolution(2, 8, 5, 7, 8, stride=2), act="leaky_relu", negative_slope=0.2),
        "1x1 stride 2": _normed(convolution(3, 16, 4, 3, 8, size=1, stride=2, padding=0), act="identity"),
        "one pixel": _normed(convolution(8, 8, 1, 1, 16), act="silu"),
        "channels_first": _normed(channels_first(convolution(2, 8, 3, 4, 8))),
        "non-contiguous": _normed(sliced, act="silu"),
        "bare": without_parameters(_normed(convolution(2, 8, 4, 3, 8), act="tanh")),
        "eval": _normed(convolution(2, 8, 4, 5, 8), training=False),
        "eval one pixel": _normed(convolution(1, 8, 1, 1, 8), training=False, act="silu"),
    },
    random_case=_random,
    benchmark_cases={name: _normed(case) for name, case in benchmark_convolutions().items()},
    flops=convolution_flops,
    bytes_moved=_bytes_moved,
    kernels=_kernels,
    forward_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
    gradient_tolerance=Tolerance(ulps=16.0, rms_ulps=16.0),
    mutates=("running_mean", "running_var"),
)
