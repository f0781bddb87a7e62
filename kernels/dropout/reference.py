"""Dropout in plain torch: the truth that the kernels are tested against, and what runs without Triton."""

import torch
from torch import Tensor

from .draws import Dropping, drop


def dropout_reference(
    x: Tensor,
    p: float,
    *,
    training: bool = True,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """``x / (1 − p)`` where an element stays, else 0.

    Arguments and result are those of ``dropout``. Half precision is computed in fp32. Nothing is checked; in training
    there must be a seed.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    dropping = Dropping(seed if training else None, step, indices, p, layer)
    return drop(x.to(dtype), dropping).to(x.dtype)
