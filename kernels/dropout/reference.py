"""Dropout in plain torch: the truth that the kernels are tested against, and what runs without Triton."""

from typing import Any

import torch
from torch import Tensor

from .draws import Dropping, drop


def dropout_reference(x: Tensor, p: float, *, training: bool = True, **source: Any) -> Tensor:
    """``x / (1 − p)`` where an element stays, else 0.

    Arguments and result are those of ``dropout``. Half precision is computed in fp32. Nothing is checked; in training
    there must be a seed.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (drop(x.to(dtype), Dropping(p=p, **source)) if training else x.to(dtype)).to(x.dtype)
