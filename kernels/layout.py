"""Memory of tensors: the checks that kernels can read it, and the layout of an elementwise result."""

from math import prod

import torch
from torch import Tensor


def check_strided(name: str, tensor: Tensor | None) -> None:
    """Raise a ValueError for the argument ``name`` if it has no strides: if it is sparse or in oneDNN's own layout."""
    if tensor is not None and tensor.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor (layout torch.strided), got {tensor.layout}")


def check_batch(name: str, tensor: Tensor) -> None:
    """Raise a ValueError unless the argument ``name`` is a floating-point [N, C, …] with at least one element."""
    check_strided(name, tensor)
    if tensor.dim() < 2 or prod(tensor.shape) == 0:
        raise ValueError(f"{name} must be [N, C, …] with no empty dimension, got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")


def output_layout(x: Tensor) -> torch.memory_format:
    """The layout of an elementwise op's result: channels_last where x has no other, else contiguous."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format
