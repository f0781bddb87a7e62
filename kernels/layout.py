"""Memory of tensors: the check that kernels can read it, and the layout of an elementwise result."""

import torch
from torch import Tensor


def check_strided(name: str, tensor: Tensor | None) -> None:
    """Raise a ValueError for the argument ``name`` if it has no strides: if it is sparse or in oneDNN's own layout."""
    if tensor is not None and tensor.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor (layout torch.strided), got {tensor.layout}")


def output_layout(x: Tensor) -> torch.memory_format:
    """The layout of an elementwise op's result: channels_last where x has no other, else contiguous."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format
