"""Dropout with torch ops: the op's implementation without Triton."""

import torch
from torch import Tensor

from ..layout import output_layout
from .draws import Dropping, drop


def dropout(x: Tensor, dropping: Dropping) -> Tensor:
    """``x / (1 − p)`` where an element stays, else 0, computed in at least fp32."""
    out = drop(x.to(torch.promote_types(x.dtype, torch.float32)), dropping)
    return out.to(x.dtype).contiguous(memory_format=output_layout(x))
