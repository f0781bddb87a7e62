"""The description of ``global_avg_pool_act`` for tests, benchmarks, compile report and docs."""

from typing import Any

from ...batch_norm.sample_inputs import (
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
from ...testing.shapes import PYRAMIDNET110, WRN16_8, shapes
from ...testing.spec import Case, Inputs, OpSpec, Tolerance
from ...tuning.tables import sizes
from .error_bounds import error_bounds
from .op import global_avg_pool_act
from .reference import global_avg_pool_act_reference


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    statistics, training = given_statistics(inputs), inputs.get("training", False)
    settings = (training, inputs.get("act", "relu"), inputs.get("negative_slope", 0.01))
    return inputs["x"], statistics, inputs.get("weight"), inputs.get("bias"), *settings


def _flops(inputs: Inputs) -> int:
    """About 20 an element with a relu: 6 for the statistics, 5 to normalise and add, 9 in backward."""
    return 20 * inputs["x"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads x twice (in eval once); backward reads it twice and writes dx."""
    return (5 if inputs.get("training", False) else 4) * inputs["x"].nbytes


def _compile_cases() -> dict[str, Case]:
    """relu at every tile."""
    return {f"relu, C={c}": compiled(c) for c in sizes(SPEC.name, 512)}


SPEC = OpSpec(
    name="global_avg_pool_act",
    summary="batch norm, activation and mean over the image, the head of a residual network",
    replaces="torch.nn.functional.adaptive_avg_pool2d",
    function=global_avg_pool_act,
    reference=global_avg_pool_act_reference,
    eager=lambda **inputs: eager_batch_norm_act(**inputs).mean(dim=(2, 3)),
    compiled_ops=("cifarfast::global_avg_pool_act", "cifarfast::global_avg_pool_act_backward"),
    op_arguments=_op_arguments,
    differentiable=("x", "weight", "bias"),
    cases={
        "relu": channels_last(3, 8, 4, 4),
        "three channels": channels_last(3, 3, 7, 5),
        "several tiles": channels_last(2, 72, 6, 7),
        "batch 1": channels_last(1, 17, 4, 4, act="leaky_relu"),
        "one pixel": channels_last(6, 10, 1, 1),
        "channels_first": channels_first(2, 12, 3, 5, act="gelu"),
        "non-contiguous": sliced,
        "offset": offset(4, 8, 4, 4),
        "parameters with gaps": with_gaps(channels_last(2, 8, 4, 3)),
        "bare": not_affine(channels_last(2, 9, 4, 3)),
        "cumulative": cumulative(channels_last(2, 5, 4, 3, act="identity")),
        "eval": channels_last(1, 8, 4, 3, training=False),
    },
    random_case=random_batch_norm,
    random_floor=largest_term,
    benchmark_cases=timed_shapes({**shapes("WRN", WRN16_8[-1:]), **shapes("PyramidNet", PYRAMIDNET110[-1:])}),
    tuning_cases=timed_shapes(shapes("narrow", [(16, 8), (64, 8)])),
    flops=_flops,
    bytes_moved=_bytes_moved,
    tile_size=channels_of,
    library=("cuDNN batch norm", lambda **inputs: cudnn_batch_norm_act(**inputs).mean(dim=(2, 3))),
    compile_cases=_compile_cases,
    forward_tolerance=Tolerance(ulps=4.0, rms_ulps=4.0),
    gradient_tolerance=Tolerance(ulps=8.0, rms_ulps=8.0),
    error_bounds=error_bounds,
    mutates=("running_mean", "running_var"),
    advances=("num_batches_tracked",),
)
