"""The description of ``batch_norm_act`` for tests, benchmarks, compile report and docs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...testing.shapes import between_shapes, pyramid_shapes, wide_shapes
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, Tolerance, in_fp32
from ...tuning.tables import sizes
from ..sample_inputs import (
    channels_first,
    channels_last,
    channels_of,
    compiled,
    cudnn_batch_norm_act,
    cumulative,
    eager_batch_norm_act,
    given_statistics,
    largest_term,
    not_affine,
    offset,
    random_batch_norm,
    sliced,
    timed,
    timed_shapes,
    with_gaps,
)
from .op import batch_norm_act
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
    inputs = random_batch_norm(make, draw_int)
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
    statistics, training = given_statistics(inputs), inputs.get("training", False)
    settings = (training, inputs.get("act", "relu"), inputs.get("negative_slope", 0.01))
    tensors = (inputs.get(name) for name in ("residual", "seed", "step", "indices"))
    dropping = (inputs.get("dropout_p", 0.0), inputs.get("layer", 0))
    return inputs["x"], statistics, inputs.get("weight"), inputs.get("bias"), *settings, *tensors, *dropping


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
    gelu = compiled(512, act="gelu")
    others = {"gelu": gelu, "gelu residual": _residual(gelu)}
    return {
        **{f"relu, C={c}": compiled(c) for c in widths},
        **{f"dropout, C={c}": _dropout(compiled(c)) for c in widths},
        **{f"fp32 {name}, C=512": in_fp32(case) for name, case in others.items()},
        **{f"fp32 {name} dropout, C=512": in_fp32(_dropout(case)) for name, case in others.items()},
        "relu, C=510": compiled(510),
        "relu residual, C=510": _residual(compiled(510)),
        "relu eval, C=512": compiled(512, training=False),
        **{f"return_input, C={c}": compiled(c, act="identity", return_input=True) for c in widths},
        "return_input relu, C=510": compiled(510, return_input=True),
        "fp32 return_input gelu, C=512": in_fp32(compiled(512, act="gelu", return_input=True)),
    }


SPEC = OpSpec(
    name="batch_norm_act",
    summary="batch norm, residual, one of ten activations and dropout, training and eval; keeps x only",
    replaces="torch.nn.functional.batch_norm",
    function=batch_norm_act,
    reference=batch_norm_act_reference,
    eager=_both(eager_batch_norm_act),
    compiled_ops=(
        "cifarfast::batch_norm_act",
        "cifarfast::batch_norm_statistics",
        "cifarfast::batch_norm_act_backward",
    ),
    op_arguments=_op_arguments,
    differentiable=("x", "weight", "bias", "residual"),
    cases={
        "relu": channels_last(2, 8, 5, 5),
        "three channels": channels_last(3, 3, 7, 5),
        "several tiles": channels_last(1, 72, 9, 9),
        "batch 1": channels_last(1, 17, 4, 4, act="leaky_relu", negative_slope=0.2),
        "one pixel": channels_last(6, 10, 1, 1, act="silu"),
        "one channel": channels_last(3, 1, 4, 3, act="elu"),
        "channels_first": channels_first(2, 12, 3, 5, act="gelu"),
        "non-contiguous": sliced,
        "offset": offset(4, 8, 4, 4, act="identity"),
        "parameters with gaps": with_gaps(channels_last(2, 8, 4, 3)),
        "bare": not_affine(channels_last(2, 9, 4, 3, act="selu")),
        "cumulative": cumulative(channels_last(2, 5, 4, 3, act="softsign")),
        "residual": _residual(channels_last(2, 8, 4, 3)),
        "residual identity": _residual(channels_last(2, 8, 4, 3, act="identity")),
        "residual sigmoid": _residual(channels_last(2, 6, 3, 3, act="sigmoid"), torch.contiguous_format),
        "dropout": _dropout(channels_last(3, 16, 3, 5)),
        "dropout, no counters but the seed": _dropout(
            channels_last(2, 11, 4, 3), 0.5, step=None, indices=None, layer=5
        ),
        "dropout gelu, several tiles": _dropout(channels_last(2, 72, 9, 9, act="gelu")),
        "residual dropout": _dropout(_residual(channels_last(2, 8, 4, 3))),
        "residual dropout identity": _dropout(_residual(channels_last(2, 8, 4, 3, act="identity"))),
        "residual dropout silu": _dropout(_residual(channels_last(2, 8, 4, 3, act="silu"))),
        "all dropped": _dropout(channels_last(2, 8, 4, 3), 1.0),
        "eval dropout": _dropout(channels_last(2, 8, 4, 3, training=False)),
        "eval": channels_last(2, 8, 4, 3, training=False, act="relu"),
        "eval residual": _residual(channels_last(1, 8, 1, 1, training=False, act="silu")),
        **_returning_input(
            {
                "relu": channels_last(2, 8, 5, 5),
                "several tiles": channels_last(1, 72, 9, 9),
                "batch 1": channels_last(1, 17, 4, 4, act="leaky_relu", negative_slope=0.2),
                "one pixel": channels_last(6, 10, 1, 1, act="silu"),
                "channels_first": channels_first(2, 12, 3, 5, act="gelu"),
                "non-contiguous": sliced,
                "offset": offset(4, 8, 4, 4, act="identity"),
                "parameters with gaps": with_gaps(channels_last(2, 8, 4, 3)),
                "bare": not_affine(channels_last(2, 9, 4, 3, act="selu")),
                "cumulative": cumulative(channels_last(2, 5, 4, 3, act="identity")),
                "residual": _residual(channels_last(2, 3, 7, 5)),
                "dropout": _dropout(channels_last(2, 8, 4, 3)),
                "eval": channels_last(2, 8, 4, 3, training=False),
            }
        ),
    },
    random_case=_random,
    random_floor=largest_term,
    benchmark_cases={
        **timed_shapes(wide_shapes()),
        **timed_shapes(pyramid_shapes()),
        "PyramidNet 512x72x32x32 identity": timed(512, 72, 32, 32, act="identity"),
        "WRN 512x128x32x32 residual": timed(512, 128, 32, 32, residual=True),
        "WRN 512x128x32x32 dropout": _dropout(timed(512, 128, 32, 32)),
        **_returning_input(timed_shapes(pyramid_shapes(), act="identity")),
    },
    tuning_cases=timed_shapes(between_shapes()),
    library=("cuDNN batch norm", _both(cudnn_batch_norm_act)),
    flops=_flops,
    bytes_moved=_bytes_moved,
    tile_size=channels_of,
    compile_cases=_compile_cases,
    forward_tolerance=Tolerance(ulps=4.0, rms_ulps=4.0),
    gradient_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
    mutates=("running_mean", "running_var"),
    advances=("num_batches_tracked",),
)
