"""Checks of what callers pass to the convolution ops, and which implementation runs them."""

import os
from types import ModuleType

import torch
from torch import Tensor

from .. import backend
from ..batch_norm.arguments import runs_torch
from ..layout import check_strided
from ..tuning.tables import tile
from . import torch_impl

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_KERNEL_SIZES = (1, 3)
_STRIDES = (1, 2)
_CHANNEL_MULTIPLE = 8


def implementation(op: str, x: Tensor, conv_weight: Tensor) -> ModuleType:
    """The module with the functions for these tensors: Triton, or the library where the tuning table says so."""
    if runs_torch(op, x):
        return torch_impl
    if not os.environ.get(backend.BACKEND_VARIABLE):
        channels = min(conv_weight.shape[:2])
        if x.dtype == torch.float32 or tile(op, channels, x.device)["library"]:
            return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


def check_convolution(x: Tensor, name: str, weight: Tensor, stride: object, padding: object) -> tuple[int, int]:
    """Raise a ValueError that begins with the name of the argument that does not fit; return stride and padding.

    ``name`` is what the caller calls the convolution's weight.
    """
    stride, padding = check_geometry(stride, padding)
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
    if min(x.shape[2:]) + 2 * padding < size[0]:
        raise ValueError(f"x must be at least as large as the kernel with padding {padding}, got {list(x.shape)}")
    return stride, padding


def check_geometry(stride: object, padding: object) -> tuple[int, int]:
    """Check the settings that need no tensor; return stride and padding."""
    stride, padding = _one_number("stride", stride), _one_number("padding", padding)
    if stride not in _STRIDES:
        raise ValueError(f"stride must be 1 or 2, got {stride}")
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    return stride, padding


def _one_number(name: str, value: object) -> int:
    """A number, or a pair of equal ones as ``torch.nn.Conv2d`` keeps them."""
    if isinstance(value, tuple | list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be an int or two equal ones, got {value!r}")
    return value


def output_like(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A tensor with the convolution's shape, dtype and device but no storage to speak of."""
    sides = [(side + 2 * padding - weight.shape[2]) // stride + 1 for side in x.shape[2:]]
    return x.new_empty(1).expand(x.shape[0], weight.shape[0], *sides)


def empty_output(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The convolution's output, unwritten, for fake kernels."""
    return torch.empty_like(output_like(x, weight, stride, padding), memory_format=torch.channels_last)


def empty_gradients(x: Tensor, weight: Tensor, need_dx: bool, need_dw: bool) -> tuple[Tensor, Tensor]:
    """The convolution's gradients, unwritten, for fake kernels; [0] where not needed."""
    dx = torch.empty_like(x, memory_format=torch.channels_last) if need_dx else x.new_empty(0)
    dw = torch.empty_like(weight, memory_format=torch.channels_last) if need_dw else x.new_empty(0)
    return dx, dw


def statistics_dtype(x: Tensor) -> torch.dtype:
    """fp32, and fp64 for fp64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def double_backward(ctx: object, *grads: Tensor) -> None:
    """A second derivative, asked for: an error, where autograd would otherwise take it for zero."""
    raise RuntimeError("convolution ops have no second derivative; CIFARFAST_BACKEND=torch has one on a CPU")
