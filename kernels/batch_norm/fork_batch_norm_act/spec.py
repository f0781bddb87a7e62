"""The description of ``fork_batch_norm_act`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch

from ...testing.shapes import between_shapes, pyramid_shapes
from ...testing.spec import Case, Inputs, OpSpec, Tolerance, in_fp32
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
    timed_shapes,
    with_gaps,
)
from .op import fork_batch_norm_act
from .reference import fork_batch_norm_act_reference


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    """Those of the backward, the only op that this one has to itself; it has no derivative."""
    statistics, training = given_statistics(inputs)
    x = inputs["x"].detach()
    weight, bias = (inputs[name].detach() if name in inputs else None for name in ("weight", "bias"))
    settings = (training, inputs.get("act", "relu"), inputs.get("negative_slope", 0.01))
    return torch.ones_like(x), torch.full_like(x, 0.5), x, statistics, weight, bias, *settings


def _flops(inputs: Inputs) -> int:
    """About 21 an element with a relu: 6 for the statistics, 4 to normalise, 11 in backward."""
    return 21 * inputs["x"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """In units of x as the op's module says: 9 in training, 8 in eval."""
    return (9 if inputs.get("training", False) else 8) * inputs["x"].nbytes


def _compile_cases() -> dict[str, Case]:
    """identity at every tile, unaligned channels, and the heaviest settings."""
    return {
        **{f"identity, C={c}": compiled(c, act="identity") for c in sizes(SPEC.name, 512)},
        "relu, C=510": compiled(510),
        "fp32 gelu, C=512": in_fp32(compiled(512, act="gelu")),
    }


SPEC = OpSpec(
    name="fork_batch_norm_act",
    summary="x for the shortcut and batch norm with activation for the branch; the two gradients added in one pass",
    replaces="torch.nn.functional.batch_norm",
    function=fork_batch_norm_act,
    reference=fork_batch_norm_act_reference,
    eager=lambda **inputs: (inputs["x"], eager_batch_norm_act(**inputs)),
    compiled_ops=("cifarfast::fork_batch_norm_act_backward",),
    op_arguments=_op_arguments,
    differentiable=("x", "weight", "bias"),
    cases={
        "relu": channels_last(2, 8, 5, 5),
        "three channels": channels_last(3, 3, 7, 5),
        "several tiles": channels_last(1, 72, 9, 9),
        "batch 1": channels_last(1, 17, 4, 4, act="leaky_relu", negative_slope=0.2),
        "one pixel": channels_last(6, 10, 1, 1, act="silu"),
        "channels_first": channels_first(2, 12, 3, 5, act="gelu"),
        "non-contiguous": sliced,
        "offset": offset(4, 8, 4, 4, act="identity"),
        "parameters with gaps": with_gaps(channels_last(2, 8, 4, 3)),
        "bare": not_affine(channels_last(2, 9, 4, 3, act="selu")),
        "cumulative": cumulative(channels_last(2, 5, 4, 3, act="identity")),
        "eval": channels_last(2, 8, 4, 3, training=False),
    },
    random_case=random_batch_norm,
    random_floor=largest_term,
    benchmark_cases=timed_shapes(pyramid_shapes(), act="identity"),
    tuning_cases=timed_shapes(between_shapes(), act="identity"),
    library=("cuDNN batch norm", lambda **inputs: (inputs["x"], cudnn_batch_norm_act(**inputs))),
    flops=_flops,
    bytes_moved=_bytes_moved,
    tile_size=channels_of,
    compile_cases=_compile_cases,
    forward_tolerance=Tolerance(ulps=4.0, rms_ulps=4.0),
    gradient_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
    mutates=("running_mean", "running_var"),
    advances=("num_batches_tracked",),
)
