"""The description of ``conv2d_bn_act`` for tests, benchmarks, compile report and docs."""

from dataclasses import replace
from typing import Any

import torch

from ...batch_norm.sample_inputs import given_norm, not_affine
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, Tolerance
from ...tuning.tables import sizes as sizes_of_rows
from .. import sample_inputs as sample
from ..reference import conv2d_bn_act_reference
from .op import conv2d_bn_act, forward


def _normed(case: Case, **settings: Any) -> Case:
    return sample.with_norm(case, norm_first=False, **settings)


def _residual(case: Case, layout: torch.memory_format = torch.channels_last, *, margin: float = 0.0) -> Case:
    """The same with a residual in a layout of its own, at least ``margin`` from 0.

    For a relu: near its corner an element's side depends on how the convolution was rounded, and with it the whole of
    its gradient.
    """

    def with_residual(make: SampleMaker) -> Inputs:
        inputs = case(make)
        g = sample.sizes(inputs)
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
    inputs = _normed(lambda make: sample.random_convolution(make, draw_int), **settings)(make)
    inputs["training"] = draw_int(0, 2) > 0 and sample.sizes(inputs).pixels > 1
    return _residual(lambda _: inputs)(make) if draw_int(0, 1) else inputs


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    norm, state = given_norm(inputs), sample.next_state(inputs, inputs.get("eps", 1e-5))
    if inputs["training"]:
        norm = replace(norm, statistics=norm.statistics.new_empty(0))
    else:
        state = state.without_buffers()
    arguments = (norm, inputs.get("residual"), state, sample.settings(inputs))
    return forward.flatten(inputs["x"], inputs["conv_weight"], *arguments)


def _bytes_moved(inputs: Inputs) -> int:
    """y is written and read in forward; backward reads it and dz twice, writes dy, which two gradients read.

    A residual is read in forward; with an activation its gradient is written and read, what the mask needs is read and
    the second pass reads the residual's gradient instead of dz.
    """
    g, size = sample.sizes(inputs), inputs["x"].element_size()
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
            cases[f"relu stride {stride}, C={c}"] = sample.compiled(c, norm_first=False, stride=stride)
        cases[f"eval, C={c}"] = sample.compiled(c, norm_first=False, **evaluation)
        cases[f"eval residual, C={c}"] = _residual(sample.compiled(c, norm_first=False, **evaluation))
    widest = sample.compiled(widths[-1], norm_first=False, act="gelu", **evaluation)
    return {**cases, f"eval residual gelu, C={widths[-1]}": _residual(widest)}


SPEC = OpSpec(
    name="conv2d_bn_act",
    summary="act(BN(conv(x)) [+ residual]): statistics from the convolution's epilogue, in eval all in one kernel; "
    "where cuDNN's convolution is faster that, then `batch_norm_act`",
    function=conv2d_bn_act,
    reference=conv2d_bn_act_reference,
    eager=sample.eager_convolution(norm_first=False),
    compiled_ops=(
        "cifarfast::conv2d_bn_act_functional",
        "cifarfast::conv2d_bn_act_folded",
        "cifarfast::conv2d_bn_act_backward",
    ),
    op_arguments=_op_arguments,
    differentiable=("x", "conv_weight", "weight", "bias", "residual"),
    cases={
        "3x3": _normed(sample.convolution(2, 8, 5, 5, 16)),
        "boxes": _normed(sample.convolution(2, 8, 8, 8, 24), act="sigmoid"),
        "stride 2": _normed(sample.convolution(2, 8, 5, 7, 8, stride=2), act="leaky_relu", negative_slope=0.2),
        "1x1 stride 2": _normed(sample.convolution(3, 16, 4, 3, 8, size=1, stride=2, padding=0), act="identity"),
        "one pixel": _normed(sample.convolution(8, 8, 1, 1, 16), act="silu"),
        "channels_first": _normed(sample.channels_first(sample.convolution(2, 8, 3, 4, 8))),
        "non-contiguous": _normed(sample.sliced, act="silu"),
        "bare": not_affine(_normed(sample.convolution(2, 8, 4, 3, 8), act="tanh")),
        "residual": _residual(_normed(sample.convolution(2, 8, 5, 4, 16)), margin=4.0),
        "residual identity": _residual(
            _normed(sample.convolution(2, 8, 4, 4, 8), act="identity"), torch.contiguous_format
        ),
        "residual silu stride 2": _residual(_normed(sample.convolution(2, 8, 5, 5, 8, stride=2), act="silu")),
        "eval residual": _residual(_normed(sample.convolution(2, 8, 8, 8, 8), training=False), margin=4.0),
        "eval": _normed(sample.convolution(2, 8, 4, 5, 8), training=False),
        "eval one pixel": _normed(sample.convolution(1, 8, 1, 1, 8), training=False, act="silu"),
    },
    random_case=_random,
    benchmark_cases={
        **{name: _timed(case) for name, case in sample.benchmark_convolutions().items()},
        "WRN 512x256x16x16 residual": _residual(
            _normed(sample.benchmark_convolutions()["WRN 512x256x16x16"]), margin=16.0
        ),
    },
    bytes_moved=_bytes_moved,
    tuning_cases={name: _timed(case) for name, case in sample.tuning_convolutions().items()},
    compile_cases=_compile_cases,
    gradient_tolerance=Tolerance(ulps=16.0, rms_ulps=16.0),
    mutates=("running_mean", "running_var"),
    **sample.CONVOLUTION_OP,
)
