"""The sum, its statistics and its batch norm with torch ops: the op's implementation without Triton."""

import torch
from torch import Tensor

from ..batch_norm_act.torch_impl import batch_norm_act_fwd, batch_norm_statistics


def add_batch_norm_statistics(
    a: Tensor,
    b: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """``s = a + b``, channels_last, and its ``batch_norm_statistics``; update the running statistics."""
    s = (a + b).contiguous(memory_format=torch.channels_last)
    return s, batch_norm_statistics(s, running_mean, running_var, num_batches_tracked, momentum, eps)


def add_batch_norm_act_fwd(
    a: Tensor,
    b: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor]:
    """``s = a + b`` and ``act((s − mean) · rstd · weight + bias)``, channels_last."""
    s = (a + b).contiguous(memory_format=torch.channels_last)
    return s, batch_norm_act_fwd(s, statistics, weight, bias, None, act, negative_slope)
