"""The description of ``shakedrop_bn_shortcut`` for tests, benchmarks, compile report and docs."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...batch_norm.batch_norm_act.statistics import input_statistics
from ...batch_norm.norm import Norm
from ...batch_norm.state import BatchNormState
from ...testing.shapes import Shape, between_shapes, pyramid_shapes
from ...testing.spec import Case, Inputs, OpSpec, SampleMaker, in_fp32
from ...tuning.tables import sizes
from ..draws import KEEP_LEVELS, LEVELS
from ..spec import eager_branch, scaling_of
from .error_bounds import error_bounds
from .op import forward, shakedrop_bn_shortcut
from .reference import pad_shortcut, shakedrop_bn_shortcut_reference


def _tail(
    n: int,
    channels: int,
    side: tuple[int, int],
    in_channels: int | None = None,
    in_side: tuple[int, int] | None = None,
    **settings: Any,
) -> Case:
    """Training with ShakeDrop, without running statistics: a call must not write to its inputs."""

    def case(make: SampleMaker) -> Inputs:
        h = make.randn(n, channels, *side, scale=2.0) + 1
        x = make.randn(n, in_channels or channels, *(in_side or side))
        return {
            "h": h.contiguous(memory_format=torch.channels_last),
            "x": x.contiguous(memory_format=torch.channels_last),
            "running_mean": None,
            "running_var": None,
            "weight": make.rand(channels, dtype=_parameter_dtype(make)) + 0.5,
            "bias": make.randn(channels, dtype=_parameter_dtype(make)),
            "keep_probability": 0.5,
            "training": True,
            **make.counters(n),
            **settings,
        }

    return case


def _parameter_dtype(make: SampleMaker) -> torch.dtype:
    return torch.promote_types(make.dtype, torch.float32)


def _evaluation(*arguments: Any, **settings: Any) -> Case:
    def case(make: SampleMaker) -> Inputs:
        inputs = _tail(*arguments, training=False, **settings)(make)
        channels, dtype = inputs["h"].shape[1], _parameter_dtype(make)
        running_var = make.rand(channels, dtype=dtype) + 0.5
        running = {"running_mean": make.randn(channels, dtype=dtype), "running_var": running_var}
        return {**inputs, **running}

    return case


def _plain(*arguments: Any, **settings: Any) -> Case:
    """Without ShakeDrop."""
    none = {"keep_probability": 1.0, "seed": None, "step": None, "indices": None}
    return _tail(*arguments, **{**none, **settings})


def _padded(*arguments: Any, true_channels: int, **settings: Any) -> Case:
    """Channels that are padding: h, weight and bias are zero there, as a fused model stores them."""

    def case(make: SampleMaker) -> Inputs:
        inputs = _tail(*arguments, true_channels=true_channels, **settings)(make)
        inputs["h"][:, true_channels:] = 0
        for name in ("weight", "bias"):
            inputs[name][true_channels:] = 0
        return inputs

    return case


def _timed(named: Mapping[str, Shape]) -> dict[str, Case]:
    """Tails of blocks that widen by 8 channels, what zero-padding there is."""

    def case(n: int, c: int, side: int) -> Case:
        return lambda make: _tail(make.images(n), c, (side, side), c - 8)(make)

    return {name: case(*shape) for name, shape in named.items()}


def _without_affine(make: SampleMaker) -> Inputs:
    inputs = _tail(3, 8, (3, 3))(make)
    return {name: value for name, value in inputs.items() if name not in ("weight", "bias")}


def _far_mean(make: SampleMaker) -> Inputs:
    """A channel with mean 1000 and standard deviation 0.01, where the dtype can hold one."""
    inputs = _tail(4, 8, (4, 4))(make)
    scale, shift = torch.ones(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    scale[3], shift[3] = 0.005, 1000.0
    h = inputs["h"].double() * scale[:, None, None].to(make.device) + shift[:, None, None].to(make.device)
    return {**inputs, "h": h.to(make.dtype)}


def _layouts(make: SampleMaker) -> Inputs:
    """h channels first, x a slice, weight and indices with gaps."""
    inputs = _tail(3, 8, (4, 3))(make)
    return {
        **inputs,
        "h": inputs["h"].contiguous(),
        "x": make.randn(3, 16, 8, 8)[:, 2:6, 1:, 1:7],
        "weight": make.rand(16, dtype=_parameter_dtype(make))[::2] + 0.5,
        "indices": make.integers(2**33, 6)[::2],
    }


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    # with few values a channel two of them may nearly agree, and the gradient cancels
    n, channels, side = draw_int(2, 3), draw_int(1, 18), (draw_int(2, 4), draw_int(2, 4))
    in_side = None
    if draw_int(0, 1):
        in_side = (2 * side[0] - draw_int(0, 1), 2 * side[1] - draw_int(0, 1))
    settings = {
        "keep_probability": draw_int(0, 4) / 4,
        "layer": draw_int(0, 99),
        "level": LEVELS[draw_int(0, 3)],
        "keep_level": KEEP_LEVELS[draw_int(0, 1)],
    }
    kind = _tail if draw_int(0, 2) else _evaluation
    return kind(n, channels, side, draw_int(1, channels), in_side, **settings)(make)


def _eager(
    h: Tensor,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = False,
    keep_probability: float = 1.0,
    **_: Any,
) -> Tensor:
    """The tail as it is written with torch alone, one draw an image."""
    branch = F.batch_norm(h, running_mean, running_var, weight, bias, training or running_mean is None)
    shortcut = pad_shortcut(x, h.shape[1], pool=x.shape[2:] != h.shape[2:])
    return shortcut + eager_branch(branch, keep_probability, training)


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    """With the statistics for a batch norm after it, where y has more than one value per channel."""
    h, buffers = inputs["h"], (inputs["running_mean"], inputs["running_var"])
    by_batch = inputs["training"] or buffers[0] is None
    statistics = input_statistics(h.detach(), BatchNormState(*buffers, None, 0.1, 1e-5), by_batch)
    norm = Norm(statistics, inputs.get("weight"), inputs.get("bias"), by_batch, "identity", 0.0)
    running = statistics.new_zeros(h.shape[1]), statistics.new_ones(h.shape[1])
    next_norm = BatchNormState(*running, torch.tensor(3, device=h.device), inputs.get("momentum", 0.1), 1e-5)
    channels = inputs.get("true_channels", h.shape[1])
    wants = h.numel() > h.shape[1]
    return forward.flatten(h, inputs["x"], norm, scaling_of(inputs, h.detach()), channels, next_norm, wants)


def _flops(inputs: Inputs) -> int:
    """About 30 an element: statistics 6, normalise, scale and add 5, sums 7, input gradient 8, and the pooling."""
    return 30 * inputs["h"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads h twice and x, writes y; backward reads h and grad twice, writes grad_h, and grad_x if pooled."""
    h, x = inputs["h"], inputs["x"]
    pooled = x.shape[2:] != h.shape[2:]
    return 8 * h.nbytes + (2 if pooled else 1) * x.nbytes


def _compile_cases() -> dict[str, Case]:
    """Drawn for an image at each tile; what else changes the code at one tile. Without and with a batch norm after."""
    # whole groups of 8 channels, as the kernels read them
    cases = {f"image, C={c}": _tail(128, -(-c // 8) * 8, (32, 32)) for c in sizes(SPEC.name, 2048)}
    pooled = (128, 72, (32, 32), 72, (64, 64))
    cases["image pooled, C=72"] = _tail(*pooled)
    cases["fp32 constant pooled, C=72"] = in_fp32(_plain(*pooled))
    cases["channel, C=72"] = _tail(128, 72, (32, 32), level="channel")
    cases["pixel, C=72"] = _tail(128, 72, (32, 32), level="pixel")
    return {**cases, **{f"{name}, next norm": _next_norm(case) for name, case in cases.items()}}


def _next_norm(case: Case) -> Case:
    def with_next_norm(make: SampleMaker) -> Inputs:
        inputs = case(make)
        return {**inputs, "next_norm": nn.BatchNorm2d(inputs["h"].shape[1], device=make.device)}

    return with_next_norm


SPEC = OpSpec(
    name="shakedrop_bn_shortcut",
    summary="tail of a PyramidNet block: last batch norm, ShakeDrop, zero-padded and 2×2-pooled shortcut",
    replaces="F.pad(F.avg_pool2d(x, 2)) + ShakeDrop(batch_norm(h))",
    function=shakedrop_bn_shortcut,
    reference=shakedrop_bn_shortcut_reference,
    eager=_eager,
    compiled_ops=("cifarfast::shakedrop_bn_shortcut_functional", "cifarfast::shakedrop_bn_shortcut_backward"),
    op_arguments=_op_arguments,
    differentiable=("h", "x", "weight", "bias"),
    mutates=("running_mean", "running_var"),
    advances=("num_batches_tracked",),
    cases={
        "image": _tail(3, 16, (4, 4), 8),
        "same width": _tail(3, 8, (3, 3), keep_level="batch", layer=7),
        "pooled": _tail(3, 16, (3, 4), 8, (6, 8)),
        "pooled odd": _tail(3, 5, (3, 4), 2, (5, 7)),
        "without shakedrop": _plain(3, 8, (3, 3), 8),
        "without shakedrop, pooled": _plain(2, 6, (2, 2), 1, (4, 4)),
        "evaluation pooled": _evaluation(2, 6, (2, 2), 4, (4, 3)),
        "evaluation without statistics": _tail(2, 6, (2, 2), 4, training=False),
        "channel": _tail(3, 16, (3, 3), 8, level="channel"),
        "pixel": _tail(3, 8, (3, 5), 8, (6, 10), level="pixel"),
        "odd width": _tail(2, 13, (5, 3), 11, level="pixel"),
        "no affine": _without_affine,
        "batch 1": _tail(1, 8, (4, 4), level="batch", keep_level="batch"),
        "one pixel": _tail(6, 8, (1, 1), 3),
        "one pixel in evaluation": _evaluation(1, 1, (1, 1), keep_probability=1.0),
        "several programs": _tail(1, 24, (17, 17), 16),
        "mean far from zero": _far_mean,
        "layouts": _layouts,
        "padded channels": _padded(2, 16, (4, 3), 8, true_channels=11),
    },
    random_case=_random,
    benchmark_cases={
        **_timed(pyramid_shapes()),
        "PyramidNet 512x72x16x16 pooled": lambda make: _tail(make.images(512), 72, (16, 16), 72, (32, 32))(make),
        "PyramidNet 512x72x32x32 without shakedrop": lambda make: _plain(make.images(512), 72, (32, 32))(make),
    },
    tuning_cases=_timed(between_shapes()),
    tile_size=lambda inputs: inputs["h"].shape[1],
    flops=_flops,
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
    error_bounds=error_bounds,
    surrogate_gradient=lambda inputs: inputs["training"] and inputs["keep_probability"] != 1,
)
