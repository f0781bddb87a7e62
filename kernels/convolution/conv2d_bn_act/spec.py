"""The description of ``conv2d_bn_act`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch

from ...batch_norm.arguments import statistics_dtype
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, Tolerance
from ...tuning.tables import sizes as sizes_of_rows
from ..sample_inputs import (
    benchmark_convolutions,
    channels_first,
    compiled,
    convolution,
    convolution_alone,
    convolution_flops,
    eager_convolution,
    next_state,
    norm,
    output_channels,
    random_convolution,
    running_statistics,
    settings,
    sizes,
    sliced,
    tuning_convolutions,
    with_norm,
    without_parameters,
)
from .op import conv2d_bn_act, forward
from .reference import conv2d_bn_act_reference


def _normed(case: Case, **settings: Any) -> Case:
    return with_norm(case, norm_first=False, **settings)


def _residual(case: Case, layout: torch.memory_format = torch.channels_last, *, margin: float = 0.0) -> Case:
    """The same with a residual in a layout of its own, at least ``margin`` from 0.

    For a relu: near its corner an element's side depends on how the convolution was rounded, and with it the whole of
    its gradient.
    """

    def with_residual(make: SampleMaker) -> Inputs:
        inputs = case(make)
        g = sizes(inputs)
        residual = make.randn(g.n, g.k, g.p, g.q).contiguous(memory_format=layout)
        return {**inputs, "residual": residual + margin * residual.sign()}

    return with_residual


def _away_from_corner(case: Case) -> Case:
    """The same with a bias of ±8: the reason is that of ``_residual``'s margin. Of millions of elements a few are near
    the corner, and in half precision the RMS of the gradients would be off by theirs."""

    def with_bias(make: SampleMaker) -> Inputs:
        inputs = case(make)
        return {**inputs, "bias": inputs["bias"] + 8 * inputs["bias"].sign()}

    return with_bias


def _timed(case: Case) -> Case:
    return _away_from_corner(_normed(case))


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    # a kink's side would depend on the last digit of a sum, and with ε near 0 a normalised value too
    settings: Inputs = {"act": ("silu", "identity", "sigmoid", "tanh")[draw_int(0, 3)], "eps": 0.1}
    inputs = _normed(lambda make: random_convolution(make, draw_int), **settings)(make)
    inputs["training"] = draw_int(0, 2) > 0 and sizes(inputs).pixels > 1
    return _residual(lambda _: inputs)(make) if draw_int(0, 1) else inputs


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    x, state = inputs["x"], next_state(inputs, inputs.get("eps", 1e-5))
    if inputs["training"]:
        given = x.new_empty(0, dtype=statistics_dtype(x))
    else:
        given, state = running_statistics(inputs), state.without_buffers()
    arguments = (norm(inputs, given), inputs.get("residual"), state, settings(inputs))
    return forward.flatten(x, inputs["conv_weight"], *arguments)


def _bytes_moved(inputs: Inputs) -> int:
    """y is written and read in forward; backward reads it and dz twice, writes dy, which two gradients read.

    A residual is read in forward; with an activation its gradient is written and read, what the mask needs is read and
    the second pass reads the residual's gradient instead of dz.
    """
    g, size = sizes(inputs), inputs["x"].element_size()
    passes = 10
    if "residual" in inputs:
        passes += 1 if inputs.get("act", "relu") == "identity" else 3
    return size * (3 * inputs["x"].numel() + 3 * inputs["conv_weight"].numel() + passes * g.pixels * g.k)


def _compile_cases() -> dict[str, Case]:
    """At every row both strides, and in eval without and with a residual; gelu at the widest row."""
    cases: dict[str, Case] = {}
    evaluation: dict[str, Any] = {"training": False, "backward": False}
    widths = sizes_of_rows(SPEC.name, 512)
    for c in widths:
        for stride in (1, 2):
            cases[f"relu stride {stride}, C={c}"] = compiled(c, norm_first=False, stride=stride)
        cases[f"eval, C={c}"] = compiled(c, norm_first=False, **evaluation)
        cases[f"eval residual, C={c}"] = _residual(compiled(c, norm_first=False, **evaluation))
    widest = compiled(widths[-1], norm_first=False, act="gelu", **evaluation)
    return {**cases, f"eval residual gelu, C={widths[-1]}": _residual(widest)}


SPEC = OpSpec(
    name="conv2d_bn_act",
    summary="act(BN(conv(x)) [+ residual]): statistics from the convolution's epilogue, in eval all in one kernel; "
    "where cuDNN's convolution is faster that, then `batch_norm_act`",
    replaces="torch.nn.functional.conv2d",
    function=conv2d_bn_act,
    reference=conv2d_bn_act_reference,
    eager=eager_convolution(norm_first=False),
    compiled_ops=(
        "cifarfast::conv2d_bn_act_functional",
        "cifarfast::conv2d_bn_act_folded",
        "cifarfast::conv2d_bn_act_backward",
    ),
    op_arguments=_op_arguments,
    differentiable=("x", "conv_weight", "weight", "bias", "residual"),
    cases={
        "3x3": _normed(convolution(2, 8, 5, 5, 16)),
        "boxes": _normed(convolution(2, 8, 8, 8, 24), act="sigmoid"),
        "stride 2": _normed(convolution(2, 8, 5, 7, 8, stride=2), act="leaky_relu", negative_slope=0.2),
        "1x1 stride 2": _normed(convolution(3, 16, 4, 3, 8, size=1, stride=2, padding=0), act="identity"),
        "one pixel": _normed(convolution(8, 8, 1, 1, 16), act="silu"),
        "channels_first": _normed(channels_first(convolution(2, 8, 3, 4, 8))),
        "non-contiguous": _normed(sliced, act="silu"),
        "bare": without_parameters(_normed(convolution(2, 8, 4, 3, 8), act="tanh")),
        "residual": _residual(_normed(convolution(2, 8, 5, 4, 16)), margin=4.0),
        "residual identity": _residual(_normed(convolution(2, 8, 4, 4, 8), act="identity"), torch.contiguous_format),
        "residual silu stride 2": _residual(_normed(convolution(2, 8, 5, 5, 8, stride=2), act="silu")),
        "eval residual": _residual(_normed(convolution(2, 8, 8, 8, 8), training=False), margin=4.0),
        "eval": _normed(convolution(2, 8, 4, 5, 8), training=False),
        "eval one pixel": _normed(convolution(1, 8, 1, 1, 8), training=False, act="silu"),
    },
    random_case=_random,
    benchmark_cases={
        **{name: _timed(case) for name, case in benchmark_convolutions().items()},
        "WRN 512x256x16x16 residual": _residual(_normed(benchmark_convolutions()["WRN 512x256x16x16"]), margin=16.0),
    },
    flops=convolution_flops,
    bytes_moved=_bytes_moved,
    library=("cuDNN convolution alone", convolution_alone),
    tile_size=output_channels,
    tuning_cases={name: _timed(case) for name, case in tuning_convolutions().items()},
    compile_cases=_compile_cases,
    forward_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
    gradient_tolerance=Tolerance(ulps=16.0, rms_ulps=16.0),
    mutates=("running_mean", "running_var"),
)
