"""The description of ``batch_norm_act`` for tests, benchmarks, compile report and docs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...dropout.draws import Dropping
from ...testing.shapes import between_shapes, pyramid_shapes, wide_shapes
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, in_fp32
from ...tuning.tables import sizes
from .. import sample_inputs as sample
from .op import batch_norm_act, forward
from .reference import batch_norm_act_reference


def _residual(case: Case, layout: torch.memory_format = torch.channels_last) -> Case:
    """The same with a residual in a layout of its own."""

    def with_residual(make: SampleMaker) -> Inputs:
        inputs = case(make)
        return {**inputs, "residual": make.randn(*inputs["x"].shape).contiguous(memory_format=layout)}

    return with_residual


def _dropout(case: Case, p: float = 0.3, **settings: Any) -> Case:
    """The same with dropout."""

    def with_dropout(make: SampleMaker) -> Inputs:
        inputs = case(make)
        return {**inputs, "dropout_p": p, **make.counters(inputs["x"].shape[0]), **settings}

    return with_dropout


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    inputs = sample.random_batch_norm(make, draw_int)
    inputs = _residual(lambda _: inputs)(make) if draw_int(0, 1) else inputs
    inputs["return_input"] = draw_int(0, 1) > 0
    return _dropout(lambda _: inputs, draw_int(0, 4) / 4, layer=draw_int(0, 9))(make) if draw_int(0, 1) else inputs


def _returning_input(cases: Mapping[str, Case]) -> dict[str, Case]:
    """The same cases with x as a second result."""

    def returning_input(case: Case) -> Case:
        return lambda make: {**case(make), "return_input": True}

    return {f"return_input, {name}": returning_input(case) for name, case in cases.items()}


def _both(batch_norm_act: Callable[..., Tensor]) -> Callable[..., Any]:
    """The same with x as a second result where it is asked for."""

    def function(x: Tensor, *args: Any, return_input: bool = False, **inputs: Any) -> Any:
        y = batch_norm_act(x, *args, **inputs)
        return (x, y) if return_input else y

    return function


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    counters = {name: inputs.get(name) for name in ("seed", "step", "indices")}
    dropping = Dropping(**counters, p=inputs.get("dropout_p", 0.0), layer=inputs.get("layer", 0))
    return forward.flatten(inputs["x"], sample.given_norm(inputs), inputs.get("residual"), dropping)


def _flops(inputs: Inputs) -> int:
    """About 20 an element with a relu: 6 for the statistics, 4 to normalise, 10 in backward; 1 to add a gradient."""
    return (20 + inputs.get("return_input", False)) * inputs["x"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """In units of x as the op's module says: 8 in training, 7 in eval, 1 or 3 more with a residual, 1 for x's."""
    passes = (8 if inputs.get("training", False) else 7) + inputs.get("return_input", False)
    if "residual" in inputs:
        stores = inputs.get("act", "relu") != "identity" or inputs.get("dropout_p", 0.0) > 0
        passes += 3 if stores else 1
    return passes * inputs["x"].nbytes


def _compile_cases() -> dict[str, Case]:
    """relu without and with dropout at every tile; the heaviest settings, unaligned channels and eval at the widest."""
    widths = sizes(SPEC.name, 512)
    gelu = sample.compiled(512, act="gelu")
    others = {"gelu": gelu, "gelu residual": _residual(gelu)}
    return {
        **{f"relu, C={c}": sample.compiled(c) for c in widths},
        **{f"dropout, C={c}": _dropout(sample.compiled(c)) for c in widths},
        **{f"fp32 {name}, C=512": in_fp32(case) for name, case in others.items()},
        **{f"fp32 {name} dropout, C=512": in_fp32(_dropout(case)) for name, case in others.items()},
        "relu, C=510": sample.compiled(510),
        "relu residual, C=510": _residual(sample.compiled(510)),
        "relu eval, C=512": sample.compiled(512, training=False),
        **{f"return_input, C={c}": sample.compiled(c, act="identity", return_input=True) for c in widths},
        "return_input relu, C=510": sample.compiled(510, return_input=True),
        "fp32 return_input gelu, C=512": in_fp32(sample.compiled(512, act="gelu", return_input=True)),
    }


_CASES = {
    "relu": sample.channels_last(2, 8, 5, 5),
    "three channels": sample.channels_last(3, 3, 7, 5),
    "several tiles": sample.channels_last(1, 72, 9, 9),
    "batch 1": sample.channels_last(1, 17, 4, 4, act="leaky_relu", negative_slope=0.2),
    "one pixel": sample.channels_last(6, 10, 1, 1, act="silu"),
    "one channel": sample.channels_last(3, 1, 4, 3, act="elu"),
    "channels_first": sample.channels_first(2, 12, 3, 5, act="gelu"),
    "non-contiguous": sample.sliced,
    "offset": sample.offset(4, 8, 4, 4, act="identity"),
    "parameters with gaps": sample.with_gaps(sample.channels_last(2, 8, 4, 3)),
    "bare": sample.not_affine(sample.channels_last(2, 9, 4, 3, act="selu")),
    "cumulative": sample.cumulative(sample.channels_last(2, 5, 4, 3, act="softsign")),
    "residual": _residual(sample.channels_last(2, 8, 4, 3)),
    "residual identity": _residual(sample.channels_last(2, 8, 4, 3, act="identity")),
    "residual sigmoid": _residual(sample.channels_last(2, 6, 3, 3, act="sigmoid"), torch.contiguous_format),
    "dropout": _dropout(sample.channels_last(3, 16, 3, 5)),
    "dropout, no counters but the seed": _dropout(
        sample.channels_last(2, 11, 4, 3), 0.5, step=None, indices=None, layer=5
    ),
    "dropout gelu, several tiles": _dropout(sample.channels_last(2, 72, 9, 9, act="gelu")),
    "residual dropout": _dropout(_residual(sample.channels_last(2, 8, 4, 3))),
    "residual dropout identity": _dropout(_residual(sample.channels_last(2, 8, 4, 3, act="identity"))),
    "residual dropout silu": _dropout(_residual(sample.channels_last(2, 8, 4, 3, act="silu"))),
    "all dropped": _dropout(sample.channels_last(2, 8, 4, 3), 1.0),
    "eval dropout": _dropout(sample.channels_last(2, 8, 4, 3, training=False)),
    "eval": sample.channels_last(2, 8, 4, 3, training=False, act="relu"),
    "eval residual": _residual(sample.channels_last(1, 8, 1, 1, training=False, act="silu")),
}
# these are run with x as a second result too: without the variants of a residual and of dropout
_SIMPLE = {name: case for name, case in _CASES.items() if not name.startswith(("residual ", "dropout ", "dropout,"))}

SPEC = OpSpec(
    name="batch_norm_act",
    summary="batch norm, residual, one of ten activations and dropout, training and eval; keeps x only",
    replaces="torch.nn.functional.batch_norm",
    function=batch_norm_act,
    reference=batch_norm_act_reference,
    eager=_both(sample.eager_batch_norm_act),
    compiled_ops=(
        "cifarfast::batch_norm_act",
        "cifarfast::batch_norm_statistics",
        "cifarfast::batch_norm_act_backward",
    ),
    op_arguments=_op_arguments,
    differentiable=("x", "weight", "bias", "residual"),
    cases={**_CASES, **_returning_input(_SIMPLE)},
    random_case=_random,
    benchmark_cases={
        **sample.timed_shapes(wide_shapes()),
        **sample.timed_shapes(pyramid_shapes()),
        "PyramidNet 512x72x32x32 identity": sample.timed(512, 72, 32, 32, act="identity"),
        "WRN 512x128x32x32 residual": sample.timed(512, 128, 32, 32, residual=True),
        "WRN 512x128x32x32 dropout": _dropout(sample.timed(512, 128, 32, 32)),
        **_returning_input(sample.timed_shapes(pyramid_shapes(), act="identity")),
    },
    tuning_cases=sample.timed_shapes(between_shapes()),
    library=("cuDNN batch norm", _both(sample.cudnn_batch_norm_act)),
    flops=_flops,
    bytes_moved=_bytes_moved,
    tile_size=sample.channels_of,
    compile_cases=_compile_cases,
    **sample.NORM_OP,
)
