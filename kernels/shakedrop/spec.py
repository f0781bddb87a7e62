"""The description of ``shakedrop`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
from torch import Tensor

from ..testing.shapes import between_shapes, pyramid_shapes
from ..testing.spec import Case, Inputs, OpSpec, SampleMaker, in_fp32
from ..tuning.tables import sizes
from .draws import KEEP_LEVELS, LEVELS, Scaling
from .op import forward, shakedrop
from .reference import ScaleBothWays, shakedrop_reference


def _branch(*shape: int, keep_probability: float = 0.5, **settings: Any) -> Case:
    return lambda make: {
        "shortcut": make.randn(*shape),
        "branch": make.randn(*shape),
        "keep_probability": keep_probability,
        **make.counters(shape[0]),
        **settings,
    }


def _channels_last(*shape: int, **settings: Any) -> Case:
    def case(make: SampleMaker) -> Inputs:
        inputs = _branch(*shape, **settings)(make)
        last = {name: inputs[name].contiguous(memory_format=torch.channels_last) for name in ("shortcut", "branch")}
        return {**inputs, **last}

    return case


def _timed(n: int, c: int, side: int) -> Case:
    return lambda make: _channels_last(make.images(n), c, side, side)(make)


def _mixed_layouts(make: SampleMaker) -> Inputs:
    """A sliced branch, a channels_last shortcut, indices with gaps and neither seed nor step of their own storage."""
    return {
        "shortcut": make.randn(5, 4, 3, 2).contiguous(memory_format=torch.channels_last),
        "branch": make.randn(5, 4, 3, 5)[..., 1:3],
        "keep_probability": 0.25,
        "seed": make.integers(2**62, 3)[1],
        "indices": make.integers(2**33, 10)[::2],
    }


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    shape = [draw_int(1, 4) for _ in range(draw_int(2, 4))]
    settings = {"level": LEVELS[draw_int(0, 3)], "keep_level": KEEP_LEVELS[draw_int(0, 1)], "layer": draw_int(0, 99)}
    kind = _channels_last if len(shape) == 4 and draw_int(0, 1) else _branch
    return kind(*shape, keep_probability=draw_int(0, 4) / 4, training=draw_int(0, 3) > 0, **settings)(make)


def _eager(shortcut: Tensor, branch: Tensor, keep_probability: float, **settings: Any) -> Tensor:
    """The residual sum with ``eager_branch``."""
    return shortcut + eager_branch(branch, keep_probability, settings.get("training", True))


def eager_branch(branch: Tensor, keep_probability: float, training: bool) -> Tensor:
    """ShakeDrop for each image as it is written with torch's generator and an autograd function."""
    if not training or keep_probability == 1:
        return branch * keep_probability
    uniform = torch.rand(3, branch.shape[0], *(1,) * (branch.dim() - 1), device=branch.device)
    keep = uniform[0] < keep_probability
    forward_scale = torch.where(keep, 1.0, uniform[1] * 2 - 1).to(branch.dtype)
    backward_scale = torch.where(keep, 1.0, uniform[2]).to(branch.dtype)
    return ScaleBothWays.apply(branch, forward_scale, backward_scale)


def scaling_of(inputs: Inputs, branch: Tensor) -> Scaling:
    """How keyword arguments scale the branch."""
    settings = {name: value for name, value in inputs.items() if name in Scaling.__dataclass_fields__}
    return Scaling(**settings).seeded(branch, inputs.get("training", True))


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    return forward.flatten(inputs["shortcut"], inputs["branch"], scaling_of(inputs, inputs["branch"]))


def _flops(inputs: Inputs) -> int:
    """A product and a sum forward, a product backward."""
    return 3 * inputs["branch"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads two tensors and writes one; backward reads one and writes one."""
    return 5 * inputs["branch"].nbytes


def _compile_cases() -> dict[str, Case]:
    """The levels that differ in code, at every tile."""
    cases: dict[str, Case] = {}
    for elements in sizes(SPEC.name, 64 * 32 * 32):
        shape = (16, elements // 64, 8, 8)
        cases[f"image, {elements} a sample"] = _channels_last(*shape)
        cases[f"fp32 channel, {elements} a sample"] = in_fp32(_channels_last(*shape, level="channel"))
        cases[f"pixel, {elements} a sample"] = _channels_last(*shape, level="pixel")
    return cases


SPEC = OpSpec(
    name="shakedrop",
    summary="residual sum with a branch scaled at random (ShakeDrop), a batch, image, channel or pixel at a time",
    replaces="shortcut + branch",
    function=shakedrop,
    reference=shakedrop_reference,
    eager=_eager,
    compiled_ops=("cifarfast::shakedrop", "cifarfast::shakedrop_backward"),
    op_arguments=_op_arguments,
    differentiable=("shortcut", "branch"),
    cases={
        "image": _branch(4, 8, 4, 4),
        "evaluation": _branch(3, 5, 2, 2, training=False),
        "never dropped": _branch(3, 5, 2, 2, keep_probability=1),
        "always dropped": _branch(3, 5, 2, 2, keep_probability=0.0, step=None, indices=None),
        "batch": _branch(3, 3, 3, 3, level="batch", keep_level="batch", layer=3),
        "pixel, channels_last": _channels_last(4, 6, 3, 5, level="pixel"),
        "odd": _channels_last(3, 13, 9, 11),
        "batch 1, one element": _branch(1, 1, 1, 1),
        "two dimensions": _branch(4, 17, level="channel"),
        "mixed layouts": _mixed_layouts,
        "several programs": _branch(2, 7, 41, 41),
    },
    random_case=_random,
    benchmark_cases={name: _timed(n, c, side) for name, (n, c, side) in pyramid_shapes().items()},
    tuning_cases={name: _timed(n, c, side) for name, (n, c, side) in between_shapes().items()},
    tile_size=lambda inputs: inputs["branch"].numel() // inputs["branch"].shape[0],
    flops=_flops,
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
    surrogate_gradient=lambda inputs: inputs.get("training", True) and inputs["keep_probability"] != 1,
)
