"""A convolution's settings, checks of what callers pass to its ops, and which backend runs them."""

import os
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .. import backend
from ..batch_norm.arguments import statistics_dtype
from ..batch_norm.state import NO_NORM, BatchNormState
from ..layout import check_strided
from ..library import operator, runs_on
from ..tuning.tables import tile

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_KERNEL_SIZES = (1, 3)
_STRIDES = (1, 2)
_CHANNEL_MULTIPLE = 8
# far above what a network uses; sizes of outputs stay within int64
_MAX_PADDING = 32_767


@dataclass(frozen=True)
class Convolution:
    """The settings of a convolution: 1 or 2 for the stride, and how many zeros are put around the image."""

    stride: int
    padding: int


@dataclass(frozen=True)
class Needed:
    """The gradients that are needed of a convolution: of its input and a batch norm before it; of its weight."""

    dx: bool
    dw: bool


def convolution_backend(op: str, x: Tensor, conv_weight: Tensor, *_: object) -> str:
    """The backend that runs ``op``: "torch", which is the library, for fp32 and where the tuning table says so, unless
    another is forced.
    """
    chosen = runs_on(op, x)
    if chosen == "torch" or os.environ.get(backend.BACKEND_VARIABLE):
        return chosen
    channels = min(conv_weight.shape[:2])
    return "torch" if x.dtype == torch.float32 or tile(op, channels, x.device)["library"] else chosen


convolution_operator = partial(operator, implementations=__package__, runs=convolution_backend)
"""An op of a convolution: ``implementations`` are this package's."""


def check_convolution(x: Tensor, name: str, weight: Tensor, stride: object, padding: object) -> Convolution:
    """Raise a ValueError that begins with the name of the argument that does not fit; return the settings.

    ``name`` is what the caller calls the convolution's weight.
    """
    conv = check_geometry(stride, padding)
    check_strided("x", x)
    check_strided(name, weight)
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(f"x must be [N, C, H, W] with every size at least 1, got {list(x.shape)}")
    if x.dtype not in _DTYPES:
        raise ValueError(f"x must be float32, bfloat16, float16 or float64, got {x.dtype}")
    if x.shape[1] % _CHANNEL_MULTIPLE:
        raise ValueError(f"x must have a multiple of 8 channels, got {x.shape[1]}")
    size = weight.shape[2:]
    if weight.dim() != 4 or size[0] != size[1] or size[0] not in _KERNEL_SIZES:
        raise ValueError(f"{name} must be [K, C, 1, 1] or [K, C, 3, 3], got {list(weight.shape)}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"{name} must have x's {x.shape[1]} input channels, got {list(weight.shape)}")
    if weight.shape[0] == 0 or weight.shape[0] % _CHANNEL_MULTIPLE:
        raise ValueError(f"{name} must have a multiple of 8 output channels, got {weight.shape[0]}")
    if weight.dtype != x.dtype:
        raise ValueError(f"{name} must have x's dtype {x.dtype}, got {weight.dtype}")
    if weight.device != x.device:
        raise ValueError(f"{name} must be on x's device {x.device}, got {weight.device}")
    if min(x.shape[2:]) + 2 * conv.padding < size[0]:
        raise ValueError(f"x must be at least as large as the kernel with padding {conv.padding}, got {list(x.shape)}")
    return conv


def check_geometry(stride: object, padding: object) -> Convolution:
    """Check the settings that need no tensor, and return them."""
    stride, padding = _one_number("stride", stride), _one_number("padding", padding)
    if stride not in _STRIDES:
        raise ValueError(f"stride must be 1 or 2, got {stride}")
    if not 0 <= padding <= _MAX_PADDING:
        raise ValueError(f"padding must lie in [0, {_MAX_PADDING}], got {padding}")
    return Convolution(stride, padding)


def _one_number(name: str, value: object) -> int:
    """A number, or a pair of equal ones as ``torch.nn.Conv2d`` keeps them."""
    if isinstance(value, tuple | list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be an int or two equal ones, got {value!r}")
    return value


def output_like(x: Tensor, weight: Tensor, conv: Convolution) -> Tensor:
    """A tensor with the convolution's shape, dtype and device but no storage to speak of."""
    sides = [(side + 2 * conv.padding - weight.shape[2]) // conv.stride + 1 for side in x.shape[2:]]
    return x.new_empty(1).expand(x.shape[0], weight.shape[0], *sides)


def empty_output(x: Tensor, weight: Tensor, conv: Convolution) -> Tensor:
    """The convolution's output, unwritten, for fake kernels."""
    return torch.empty_like(output_like(x, weight, conv), memory_format=torch.channels_last)


def empty_statistics(x: Tensor, weight: Tensor, wanted: bool) -> Tensor:
    """The statistics [3, K] of the convolution's output, unwritten, for fake kernels; [0] if not wanted."""
    return x.new_empty((3, weight.shape[0]) if wanted else 0, dtype=statistics_dtype(x))


def empty_gradients(x: Tensor, weight: Tensor, needed: Needed) -> tuple[Tensor, Tensor]:
    """The convolution's gradients, unwritten, for fake kernels; [0] where not needed."""
    dx = torch.empty_like(x, memory_format=torch.channels_last) if needed.dx else x.new_empty(0)
    dw = torch.empty_like(weight, memory_format=torch.channels_last) if needed.dw else x.new_empty(0)
    return dx, dw


def state_after(next_norm: nn.BatchNorm2d | None, x: Tensor, weight: Tensor, conv: Convolution) -> BatchNormState:
    """The state of the batch norm that normalises the convolution's output, checked against that; without one, none."""
    return NO_NORM if next_norm is None else BatchNormState.of(next_norm, output_like(x, weight, conv))
