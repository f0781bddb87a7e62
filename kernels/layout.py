"""The check that tensors have memory that kernels can read."""

import torch
from torch import Tensor


def check_strided(name: str, tensor: Tensor | None) -> None:
    """Raise a ValueError for the argument ``name`` if it has no strides: if it is sparse or in oneDNN's own layout."""
    if tensor is not None and tensor.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor (layout torch.strided), got {tensor.layout}")
