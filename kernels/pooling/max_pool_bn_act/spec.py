"""The description of ``max_pool_bn_act`` for tests, benchmarks, compile report and docs."""

from collections.abc import Callable

import torch.nn.functional as F

from ...batch_norm import sample_inputs as sample
from ...testing.shapes import shapes
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, in_fp32
from ...tuning.tables import sizes
from .op import forward, max_pool_bn_act
from .reference import max_pool_bn_act_reference


def _flops(inputs: Inputs) -> int:
    """About 20 an element with a relu: 6 for the statistics, 5 to normalise and compare, 9 in backward."""
    return 20 * inputs["x"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads x twice (in eval once) and writes y; backward reads x and grad twice and writes dx."""
    x = inputs["x"]
    pooled = x.nbytes // (x.shape[2] * x.shape[3]) * (x.shape[2] // 2) * (x.shape[3] // 2)
    return (5 if inputs.get("training", False) else 4) * x.nbytes + 3 * pooled


def _random(make: SampleMaker, draw_int: Callable[[int, int], int]) -> Inputs:
    """Any shape of at least 2×2."""
    return sample.random_batch_norm(make, draw_int, smallest=2)


def _compile_cases() -> dict[str, Case]:
    """relu at every tile, and the heaviest settings."""
    cases = {f"relu, C={c}": sample.compiled(c) for c in sizes(SPEC.name, 512)}
    return {**cases, "fp32 gelu, C=512": in_fp32(sample.compiled(512, act="gelu"))}


SPEC = OpSpec(
    name="max_pool_bn_act",
    summary="batch norm, activation and 2×2 max-pooling, without indices",
    replaces="torch.nn.functional.max_pool2d",
    function=max_pool_bn_act,
    reference=max_pool_bn_act_reference,
    eager=lambda **inputs: F.max_pool2d(sample.eager_batch_norm_act(**inputs), 2),
    compiled_ops=("cifarfast::max_pool_bn_act", "cifarfast::max_pool_bn_act_backward"),
    op_arguments=lambda inputs: forward.flatten(inputs["x"], sample.given_norm(inputs)),
    differentiable=("x", "weight", "bias"),
    cases={
        "relu": sample.channels_last(2, 8, 4, 6),
        "three channels odd": sample.channels_last(2, 3, 7, 5, act="silu"),
        "several tiles": sample.channels_last(2, 72, 8, 7),
        "batch 1": sample.channels_last(1, 17, 5, 4, act="leaky_relu"),
        "one window": sample.channels_last(4, 10, 3, 3, act="tanh"),
        "channels_first": sample.channels_first(2, 12, 2, 5, act="gelu"),
        "non-contiguous": sample.sliced,
        "offset": sample.offset(4, 8, 4, 4),
        "parameters with gaps": sample.with_gaps(sample.channels_last(2, 8, 4, 6)),
        "bare": sample.not_affine(sample.channels_last(2, 9, 4, 3)),
        "cumulative": sample.cumulative(sample.channels_last(2, 5, 4, 3, act="identity")),
        "eval": sample.channels_last(1, 8, 4, 3, training=False),
    },
    random_case=_random,
    # neither network has a max-pooling: those of a plain convolutional one
    benchmark_cases=sample.timed_shapes(shapes("plain", [(64, 32), (256, 16)])),
    tuning_cases=sample.timed_shapes(shapes("plain", [(16, 32), (32, 32), (128, 16)])),
    flops=_flops,
    bytes_moved=_bytes_moved,
    tile_size=sample.channels_of,
    library=("cuDNN batch norm", lambda **inputs: F.max_pool2d(sample.cudnn_batch_norm_act(**inputs), 2)),
    compile_cases=_compile_cases,
    **sample.NORM_OP,
)
