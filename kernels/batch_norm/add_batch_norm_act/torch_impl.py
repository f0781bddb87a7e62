"""The sum and its batch norm with torch ops: the op's implementation without Triton."""

import torch
from torch import Tensor

from ..batch_norm_act.torch_impl import batch_norm_act, batch_norm_statistics
from ..norm import Norm
from ..state import BatchNormState


def add_batch_norm_act(
    a: Tensor,
    b: Tensor,
    statistics: Tensor | None,
    state: BatchNormState,
    weight: Tensor | None,
    bias: Tensor | None,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``s = a + b``, ``act((s − mean) · rstd · weight + bias)``, channels_last, and s's statistics, empty where given.

    The running statistics are updated where none are given.
    """
    s = (a + b).contiguous(memory_format=torch.channels_last)
    used = batch_norm_statistics(s, state) if statistics is None else statistics
    y = batch_norm_act(s, Norm(used, weight, bias, statistics is None, act, negative_slope))
    return s, y, used if statistics is None else used.new_empty(0)
