"""The description of ``bn_act_conv2d`` for tests, benchmarks, compile report and docs."""

from typing import Any

from ...batch_norm.sample_inputs import given_norm, not_affine
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, Tolerance
from ...tuning.tables import sizes as sizes_of_rows
from .. import sample_inputs as sample
from ..reference import bn_act_conv2d_reference
from .op import bn_act_conv2d, forward


def _normed(case: Case, **settings: Any) -> Case:
    return sample.with_norm(case, norm_first=True, **settings)


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    settings: Inputs = {
        "training": draw_int(0, 2) > 0,
        "act": ("relu", "silu", "identity", "sigmoid")[draw_int(0, 3)],
        # with ε near 0 two nearly equal values would be an ill-conditioned problem
        "eps": 0.1,
    }
    return _normed(lambda make: sample.random_convolution(make, draw_int), **settings)(make)


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    after = (sample.next_state(inputs), sample.sizes(inputs).pixels > 1, sample.settings(inputs))
    return forward.flatten(inputs["x"], inputs["conv_weight"], given_norm(inputs), *after)


def _bytes_moved(inputs: Inputs) -> int:
    """x is read by statistics, convolution, both gradients and BN's (which writes it too); y and dy thrice."""
    g, size = sample.sizes(inputs), inputs["x"].element_size()
    return size * (8 * inputs["x"].numel() + 3 * inputs["conv_weight"].numel() + 3 * g.pixels * g.k)


def _compile_cases() -> dict[str, Case]:
    """At every row relu with a batch norm after, and the activations that take the most registers; at the widest row
    1×1, and the input's gradient in eval.
    """
    cases: dict[str, Case] = {}
    widths = sizes_of_rows(SPEC.name, 512)
    for c in widths:
        for stride in (1, 2):
            cases[f"relu stride {stride}, C={c}"] = sample.compiled(c, norm_first=True, stride=stride, next_norm=True)
        for act in ("silu", "tanh", "gelu"):
            settings: dict[str, Any] = {"act": act, "backward": act != "tanh"}
            cases[f"{act}, C={c}"] = sample.compiled(c, norm_first=True, next_norm=True, **settings)
    cases[f"1x1, C={widths[-1]}"] = sample.compiled(widths[-1], norm_first=True, next_norm=True, size=1)
    for act in ("relu", "gelu"):
        cases[f"eval {act}, C={widths[-1]}"] = sample.compiled(widths[-1], norm_first=True, act=act, training=False)
    return cases


SPEC = OpSpec(
    name="bn_act_conv2d",
    summary="conv(act(BN(x))) without the activated x in memory, BN's backward sums in the gradient's epilogue; where "
    "cuDNN's convolution is faster `batch_norm_act`, then that, the activated x recomputed in backward",
    function=bn_act_conv2d,
    reference=bn_act_conv2d_reference,
    eager=sample.eager_convolution(norm_first=True),
    compiled_ops=("cifarfast::bn_act_conv2d_functional", "cifarfast::bn_act_conv2d_backward"),
    op_arguments=_op_arguments,
    differentiable=("x", "conv_weight", "weight", "bias"),
    cases={
        "3x3": _normed(sample.convolution(2, 8, 5, 5, 16)),
        "boxes": _normed(sample.convolution(2, 24, 8, 8, 8), act="sigmoid"),
        "stride 2": _normed(sample.convolution(1, 8, 5, 7, 8, stride=2), act="leaky_relu", negative_slope=0.2),
        "1x1 stride 2": _normed(sample.convolution(2, 16, 4, 3, 8, size=1, stride=2, padding=0), act="identity"),
        "padding 2": _normed(sample.convolution(1, 8, 3, 3, 8, padding=2), act="sigmoid"),
        "one pixel": _normed(sample.convolution(6, 8, 1, 1, 16), act="silu"),
        "channels_first": _normed(sample.channels_first(sample.convolution(2, 8, 3, 4, 8))),
        "non-contiguous": _normed(sample.sliced),
        "bare": not_affine(_normed(sample.convolution(2, 8, 4, 3, 8, padding=0))),
        "eval": _normed(sample.convolution(2, 8, 4, 5, 8), training=False),
        "eval one pixel": _normed(sample.convolution(1, 8, 1, 1, 8), training=False, act="silu"),
    },
    random_case=_random,
    benchmark_cases={name: _normed(case) for name, case in sample.benchmark_convolutions().items()},
    bytes_moved=_bytes_moved,
    tuning_cases={name: _normed(case) for name, case in sample.tuning_convolutions().items()},
    compile_cases=_compile_cases,
    gradient_tolerance=Tolerance(ulps=16.0, rms_ulps=16.0),
    mutates=("running_mean", "running_var"),
    **sample.CONVOLUTION_OP,
)
