"""The description of ``global_avg_pool_act`` for tests, benchmarks, compile report and docs."""

from ...batch_norm import sample_inputs as sample
from ...testing.shapes import PYRAMIDNET110, WRN16_8, shapes
from ...testing.spec import Case, Inputs, OpSpec
from ...tuning.tables import sizes
from .error_bounds import error_bounds
from .op import forward, global_avg_pool_act
from .reference import global_avg_pool_act_reference


def _flops(inputs: Inputs) -> int:
    """About 20 an element with a relu: 6 for the statistics, 5 to normalise and add, 9 in backward."""
    return 20 * inputs["x"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads x twice (in eval once); backward reads it twice and writes dx."""
    return (5 if inputs.get("training", False) else 4) * inputs["x"].nbytes


def _compile_cases() -> dict[str, Case]:
    """relu at every tile."""
    return {f"relu, C={c}": sample.compiled(c) for c in sizes(SPEC.name, 512)}


SPEC = OpSpec(
    name="global_avg_pool_act",
    summary="batch norm, activation and mean over the image, the head of a residual network",
    replaces="torch.nn.functional.adaptive_avg_pool2d",
    function=global_avg_pool_act,
    reference=global_avg_pool_act_reference,
    eager=lambda **inputs: sample.eager_batch_norm_act(**inputs).mean(dim=(2, 3)),
    compiled_ops=("cifarfast::global_avg_pool_act", "cifarfast::global_avg_pool_act_backward"),
    op_arguments=lambda inputs: forward.flatten(inputs["x"], sample.given_norm(inputs)),
    differentiable=("x", "weight", "bias"),
    cases={
        "relu": sample.channels_last(3, 8, 4, 4),
        "three channels": sample.channels_last(3, 3, 7, 5),
        "several tiles": sample.channels_last(2, 72, 6, 7),
        "batch 1": sample.channels_last(1, 17, 4, 4, act="leaky_relu"),
        "one pixel": sample.channels_last(6, 10, 1, 1),
        "channels_first": sample.channels_first(2, 12, 3, 5, act="gelu"),
        "non-contiguous": sample.sliced,
        "offset": sample.offset(4, 8, 4, 4),
        "parameters with gaps": sample.with_gaps(sample.channels_last(2, 8, 4, 3)),
        "bare": sample.not_affine(sample.channels_last(2, 9, 4, 3)),
        "cumulative": sample.cumulative(sample.channels_last(2, 5, 4, 3, act="identity")),
        "eval": sample.channels_last(1, 8, 4, 3, training=False),
    },
    random_case=sample.random_batch_norm,
    benchmark_cases=sample.timed_shapes({**shapes("WRN", WRN16_8[-1:]), **shapes("PyramidNet", PYRAMIDNET110[-1:])}),
    tuning_cases=sample.timed_shapes(shapes("narrow", [(16, 8), (64, 8)])),
    flops=_flops,
    bytes_moved=_bytes_moved,
    tile_size=sample.channels_of,
    library=("cuDNN batch norm", lambda **inputs: sample.cudnn_batch_norm_act(**inputs).mean(dim=(2, 3))),
    compile_cases=_compile_cases,
    error_bounds=error_bounds,
    **sample.NORM_OP,
)
