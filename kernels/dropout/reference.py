"""Dropout in plain torch: the truth that the kernels are tested against, and what runs without Triton."""

from typing import Any

import torch
from torch import Tensor

from ..layout import output_layout
from .draws import Dropping, drop


def dropout_reference(x: Tensor, p: float, *, training: bool = True, **source: Any) -> Tensor:
    """``x / (1 − p)`` where an element stays, else 0.

    Arguments and result are those of ``dropout``. Nothing is checked; in training there must be a seed.
    """
    return dropout(x, Dropping(p=p, **source)) if training else x


def dropout(x: Tensor, dropping: Dropping) -> Tensor:
    """The op: ``x / (1 − p)`` where an element stays, else 0, computed in at least fp32."""
    out = drop(x.to(torch.promote_types(x.dtype, torch.float32)), dropping)
    return out.to(x.dtype).contiguous(memory_format=output_layout(x))
