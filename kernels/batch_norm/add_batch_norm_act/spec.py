"""The description of ``add_batch_norm_act`` for tests, benchmarks, compile report and docs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...testing.shapes import between_shapes, wide_shapes
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, in_fp32
from ...tuning.tables import sizes
from .. import sample_inputs as sample
from ..state import BUFFERS, BatchNormState
from .op import add_batch_norm_act, forward
from .reference import add_batch_norm_act_reference


def split(case: Case, b_layout: torch.memory_format | None = None) -> Case:
    """The sample inputs of a batch norm with x as the sum of ``2x`` and ``−x``, which no dtype rounds.

    A rounded sum would put a relu's input on the other side of 0 than in fp64.
    """

    def split_case(make: SampleMaker) -> Inputs:
        inputs = case(make)
        x = inputs.pop("x")
        b = -x if b_layout is None else (-x).contiguous(memory_format=b_layout)
        return {"a": 2 * x, "b": b, **inputs}

    return split_case


def _random(make: SampleMaker, draw_int: Callable[[int, int], int]) -> Inputs:
    layout = (None, torch.contiguous_format, torch.channels_last)[draw_int(0, 2)]
    return split(lambda make: sample.random_batch_norm(make, draw_int), layout)(make)


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    norm = sample.given_norm({**inputs, "x": inputs["a"] + inputs["b"]})
    state = BatchNormState(
        **{name: inputs.get(name) for name in BUFFERS}, momentum=inputs.get("momentum", 0.1), eps=1e-5
    )
    if norm.training:
        norm = replace(norm, statistics=norm.statistics.new_empty(0))
    else:
        state = state.without_buffers()
    return forward.flatten(inputs["a"], inputs["b"], norm, state)


def _apart(batch_norm_act: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The sum, and the batch norm of it as a function of its own."""

    def function(a: Tensor, b: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        s = a + b
        return s, batch_norm_act(s, **inputs)

    return function


def _flops(inputs: Inputs) -> int:
    """About 22 an element with a relu: 1 for the sum, 6 for the statistics, 4 to normalise, 11 in backward."""
    return 22 * inputs["a"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """In units of a as the op's module says: 11 in training, 10 in eval."""
    return (11 if inputs.get("training", False) else 10) * inputs["a"].nbytes


def _compile_cases() -> dict[str, Case]:
    """relu at every tile and with unaligned channels, and the heaviest settings, in training and eval."""
    cases = {f"relu, C={c}": split(sample.compiled(c)) for c in (*sizes(SPEC.name, 512), 510)}
    cases["fp32 gelu, C=512"] = in_fp32(split(sample.compiled(512, act="gelu")))
    return {**cases, **{f"eval {name}": _evaluation(case) for name, case in cases.items()}}


def _evaluation(case: Case) -> Case:
    return lambda make: {**case(make), "training": False}


SPEC = OpSpec(
    name="add_batch_norm_act",
    summary="the sum of branch and shortcut, batch norm and activation; one gradient for both terms",
    replaces="torch.nn.functional.batch_norm",
    function=add_batch_norm_act,
    reference=add_batch_norm_act_reference,
    eager=_apart(sample.eager_batch_norm_act),
    compiled_ops=("cifarfast::add_batch_norm_act_functional", "cifarfast::add_batch_norm_act"),
    op_arguments=_op_arguments,
    differentiable=("a", "b", "weight", "bias"),
    cases={
        "relu": split(sample.channels_last(2, 8, 5, 5)),
        "three channels": split(sample.channels_last(3, 3, 7, 5)),
        "several tiles": split(sample.channels_last(1, 72, 9, 9)),
        "batch 1": split(sample.channels_last(1, 17, 4, 4, act="leaky_relu", negative_slope=0.2)),
        "one pixel": split(sample.channels_last(6, 10, 1, 1, act="silu")),
        "channels_first": split(sample.channels_first(2, 12, 3, 5, act="gelu")),
        "mixed layouts": split(sample.channels_last(2, 8, 4, 3, act="elu"), torch.contiguous_format),
        "non-contiguous": split(sample.sliced, torch.channels_last),
        "offset": split(sample.offset(4, 8, 4, 4, act="identity")),
        "parameters with gaps": split(sample.with_gaps(sample.channels_last(2, 8, 4, 3))),
        "eval, parameters with gaps": split(sample.with_gaps(sample.channels_last(2, 8, 4, 3, training=False))),
        "bare": split(sample.not_affine(sample.channels_last(2, 9, 4, 3, act="selu"))),
        "cumulative": split(sample.cumulative(sample.channels_last(2, 5, 4, 3, act="softsign"))),
        "eval": split(sample.channels_last(2, 8, 4, 3, training=False)),
        "eval bare": split(sample.channels_first(1, 7, 1, 1, training=False, act="identity")),
    },
    random_case=_random,
    benchmark_cases={name: split(case) for name, case in sample.timed_shapes(wide_shapes()).items()},
    tuning_cases={name: split(case) for name, case in sample.timed_shapes(between_shapes()).items()},
    library=("cuDNN batch norm", _apart(sample.cudnn_batch_norm_act)),
    flops=_flops,
    bytes_moved=_bytes_moved,
    tile_size=lambda inputs: inputs["a"].shape[1],
    compile_cases=_compile_cases,
    **sample.NORM_OP,
)
