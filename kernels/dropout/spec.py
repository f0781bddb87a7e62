"""The description of ``dropout`` for tests, benchmarks, compile report and docs."""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..testing.shapes import between_shapes, wide_shapes
from ..testing.spec import Case, Inputs, OpSpec, SampleMaker, in_fp32
from ..tuning.tables import sizes
from .draws import GROUP, Dropping
from .op import dropout, forward
from .reference import dropout_reference


def _inputs(*shape: int, p: float = 0.3, **settings: Any) -> Case:
    return lambda make: {"x": make.randn(*shape), "p": p, **make.counters(shape[0]), **settings}


def _channels_last(*shape: int, **settings: Any) -> Case:
    def case(make: SampleMaker) -> Inputs:
        inputs = _inputs(*shape, **settings)(make)
        return {**inputs, "x": inputs["x"].contiguous(memory_format=torch.channels_last)}

    return case


def _timed(n: int, c: int, side: int) -> Case:
    return lambda make: _channels_last(make.images(n), c, side, side)(make)


def _sliced(make: SampleMaker) -> Inputs:
    """x with gaps, indices with gaps and a seed without storage of its own; no step."""
    return {
        "x": make.randn(5, 11, 3, 5)[..., 1:3],
        "p": 0.5,
        "seed": make.integers(2**62, 3)[1],
        "indices": make.integers(2**33, 10)[::2],
    }


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    shape = [draw_int(1, 4), draw_int(1, 20), *(draw_int(1, 4) for _ in range(draw_int(0, 2)))]
    settings = {"layer": draw_int(0, 99), "p": draw_int(0, 8) / 8, "training": draw_int(0, 3) > 0}
    kind = _channels_last if len(shape) == 4 and draw_int(0, 1) else _inputs
    return kind(*shape, **settings)(make)


def _eager(x: Tensor, p: float, *, training: bool = True, **_: Any) -> Tensor:
    """torch's dropout, with draws of its own."""
    return F.dropout(x, p, training)


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    settings = {name: inputs[name] for name in ("seed", "step", "indices", "p", "layer") if name in inputs}
    return forward.flatten(inputs["x"], Dropping(**settings))


def _flops(inputs: Inputs) -> int:
    """A product each way; the draws are integer arithmetic."""
    return 2 * inputs["x"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """A tensor read and one written, each way."""
    return 4 * inputs["x"].nbytes


def _compile_cases() -> dict[str, Case]:
    """Both layouts, whole groups of channels and not, at every tile."""
    cases: dict[str, Case] = {}
    for elements in sizes(SPEC.name, 128 * 32 * 32):
        channels = elements // 64
        cases[f"channels_last, {elements} a sample"] = _channels_last(16, channels, 8, 8)
        cases[f"fp32 odd channels, {elements} a sample"] = in_fp32(_channels_last(16, channels - 1, 8, 8))
        cases[f"channels_first, {elements} a sample"] = _inputs(16, channels, 8, 8)
    return cases


SPEC = OpSpec(
    name="dropout",
    summary="dropout whose draws are a function of seed, step, layer and sample; nothing is saved",
    replaces="torch.nn.functional.dropout",
    function=dropout,
    reference=dropout_reference,
    eager=_eager,
    compiled_ops=("cifarfast::dropout",),
    op_arguments=_op_arguments,
    differentiable=("x",),
    cases={
        "channels_last": _channels_last(4, 8, 4, 4),
        "channels_first": _inputs(3, 16, 3, 5, layer=3),
        "odd": _channels_last(3, 13, 9, 11, p=0.5),
        "odd channels_first": _inputs(2, 13, 5, 3, p=0.1),
        "two dimensions": _inputs(4, 37),
        "never dropped": _inputs(3, 5, 2, 2, p=0.0),
        "always dropped": _inputs(3, 5, 2, 2, p=1.0, step=None, indices=None),
        "evaluation": _inputs(3, 5, 2, 2, training=False),
        "batch 1, one element": _inputs(1, 1, 1, 1, p=0.5),
        "sliced": _sliced,
        "several programs": _channels_last(2, 24, 21, 21),
    },
    random_case=_random,
    benchmark_cases={name: _timed(n, c, side) for name, (n, c, side) in wide_shapes().items()},
    tuning_cases={name: _timed(n, c, side) for name, (n, c, side) in between_shapes().items()},
    tile_size=lambda inputs: -(-inputs["x"].shape[1] // GROUP) * GROUP * prod(inputs["x"].shape[2:]),
    flops=_flops,
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
)
