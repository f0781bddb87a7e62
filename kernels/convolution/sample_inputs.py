"""Sample inputs, FLOPs and bytes for the specs of the convolution ops."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch_norm.arguments import statistics_dtype
from ..batch_norm.sample_inputs import counted, eager_batch_norm_act
from ..batch_norm.state import BatchNormState
from ..testing.shapes import between_shapes, pyramid_shapes, wide_shapes
from ..testing.spec import Case, Inputs, SampleMaker, Tolerance
from .arguments import Convolution
from .tiles import Geometry, geometry


def convolution(
    n: int, c: int, h: int, w: int, k: int, *, size: int = 3, stride: int = 1, padding: int = 1
) -> Callable[[SampleMaker], Inputs]:
    """x, channels_last, and a weight that keeps its scale."""

    def case(make: SampleMaker) -> Inputs:
        weight = make.randn(k, size, size, c, scale=(c * size * size) ** -0.5).permute(0, 3, 1, 2)
        x = make.randn(n, h, w, c).permute(0, 3, 1, 2)
        return {"x": x, "weight": weight, "stride": stride, "padding": padding}

    return case


def channels_first(case: Case) -> Case:
    """The same in torch's default layout."""
    return lambda make: {
        name: value.contiguous() if isinstance(value, Tensor) else value for name, value in case(make).items()
    }


def sliced(make: SampleMaker) -> Inputs:
    """x with gaps between images, channels, rows and pixels; a transposed weight."""
    return {
        "x": make.randn(3, 16, 6, 10)[1:, ::2, 1:, ::2],
        "weight": make.randn(8, 16, 3, 3, scale=0.1).transpose(0, 1),
        "padding": 1,
    }


def with_norm(case: Case, *, norm_first: bool, **settings: Any) -> Case:
    """A batch norm of the convolution's input or output too; training. Every tensor is in x's dtype."""

    def normed(make: SampleMaker) -> Inputs:
        inputs = case(make)
        conv_weight = inputs.pop("weight")
        channels = conv_weight.shape[1 if norm_first else 0]
        return {
            **inputs,
            "conv_weight": conv_weight,
            "running_mean": make.randn(channels, scale=0.5),
            "running_var": make.rand(channels, dtype=make.dtype) + 0.5,
            "weight": make.randn(channels, scale=0.3) + 1,
            "bias": make.randn(channels, scale=0.3),
            "training": True,
            **settings,
        }

    return normed


def compiled(
    c: int, *, norm_first: bool, size: int = 3, stride: int = 1, next_norm: bool = False, **settings: Any
) -> Case:
    """What the compile report has of a convolution from c to c channels: a network's, so with parameters in fp32."""
    side = 32 * stride
    case = with_norm(
        convolution(128, c, side, side, c, size=size, stride=stride, padding=size // 2),
        norm_first=norm_first,
        **settings,
    )

    def with_fp32_parameters(make: SampleMaker) -> Inputs:
        inputs = counted(case)(make)
        parameters = {name: inputs[name].float() for name in ("running_mean", "running_var", "weight", "bias")}
        if next_norm:
            parameters["next_norm"] = torch.nn.BatchNorm2d(c, device=make.device)
        return {**inputs, **parameters}

    return with_fp32_parameters


def random_convolution(make: SampleMaker, draw_int: Callable[[int, int], int]) -> Inputs:
    """Any shape, stride, padding and layout; one in three of a shape that boxes of pixels fit."""
    size = (1, 3)[draw_int(0, 1)]
    side, padding = ((8, 8), size // 2) if draw_int(0, 2) == 0 else ((draw_int(3, 4), draw_int(3, 5)), draw_int(0, 2))
    shape = draw_int(1, 2), 8 * draw_int(1, 2), *side, 8 * draw_int(1, 3)
    case = convolution(*shape, size=size, stride=draw_int(1, 2), padding=padding)
    return channels_first(case)(make) if draw_int(0, 1) else case(make)


def benchmark_convolutions() -> dict[str, Case]:
    """The 3×3 convolutions of WRN-16-8 and PyramidNet-110."""
    named = {**wide_shapes(), **pyramid_shapes()}
    stride_2 = {"WRN 512x128x32x32 to 256 stride 2": _timed(512, 128, 32, 256, 2)}
    return {**{name: _timed(n, c, side, c) for name, (n, c, side) in named.items()}, **stride_2}


def tuning_convolutions() -> dict[str, Case]:
    """The tuner's widths between those."""
    return {name: _timed(n, c, side, c) for name, (n, c, side) in between_shapes().items()}


def _timed(n: int, c: int, side: int, k: int, stride: int = 1) -> Case:
    return lambda make: convolution(make.images(n), c, side, side, k, stride=stride)(make)


def output_channels(inputs: Inputs) -> int:
    """The size in the tuning table, as the forward looks it up; the choice of the library takes the smaller side."""
    return sizes(inputs).k


def eager_convolution(norm_first: bool) -> Callable[..., Tensor]:
    """The sequence as it is written with torch alone, in x's dtype."""

    def eager(
        x: Tensor, conv_weight: Tensor, *, stride: int = 1, padding: int = 0, act: str = "relu", **norm: Any
    ) -> Tensor:
        if norm_first:
            return F.conv2d(eager_batch_norm_act(x, **norm, act=act), conv_weight, stride=stride, padding=padding)
        return eager_batch_norm_act(F.conv2d(x, conv_weight, stride=stride, padding=padding), **norm, act=act)

    return eager


def convolution_alone(x: Tensor, **inputs: Any) -> Tensor:
    """cuDNN's convolution and nothing else: the rate that the fused ops are measured by."""
    weight = inputs["conv_weight"] if "conv_weight" in inputs else inputs["weight"]
    return F.conv2d(x, weight, stride=inputs.get("stride", 1), padding=inputs.get("padding", 0))


def sizes(inputs: Inputs) -> Geometry:
    """The convolution's sizes."""
    weight = inputs["conv_weight" if "conv_weight" in inputs else "weight"]
    return geometry(inputs["x"].shape, weight.shape, inputs.get("stride", 1), inputs.get("padding", 0))


def convolution_flops(inputs: Inputs) -> int:
    """Of forward, input's gradient and weight's gradient."""
    return 3 * sizes(inputs).flops


def next_state(inputs: Inputs, eps: float = 1e-5) -> BatchNormState:
    """A batch norm of the convolution's output that has seen nothing; without buffers for an output of one pixel."""
    x, g = inputs["x"], sizes(inputs)
    if g.pixels == 1:
        return BatchNormState(None, None, None, 0.1, eps)
    mean = torch.zeros(g.k, dtype=statistics_dtype(x), device=x.device)
    return BatchNormState(mean, torch.ones_like(mean), torch.zeros((), dtype=torch.int64, device=x.device), 0.1, eps)


def settings(inputs: Inputs) -> Convolution:
    """Stride and padding."""
    return Convolution(inputs.get("stride", 1), inputs.get("padding", 0))


# what the specs of these ops have in common
CONVOLUTION_OP: dict[str, Any] = {
    "replaces": "torch.nn.functional.conv2d",
    "flops": convolution_flops,
    "library": ("cuDNN convolution alone", convolution_alone),
    "tile_size": output_channels,
    "forward_tolerance": Tolerance(ulps=8.0, rms_ulps=8.0),
}
