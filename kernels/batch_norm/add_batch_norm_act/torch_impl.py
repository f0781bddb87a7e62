"""The sum and its batch norm with torch ops: the op's implementation without Triton."""

from dataclasses import replace

import torch
from torch import Tensor

from ..batch_norm_act.torch_impl import batch_norm_act, batch_norm_statistics
from ..norm import Norm
from ..state import BatchNormState


def add_batch_norm_act(a: Tensor, b: Tensor, norm: Norm, state: BatchNormState) -> tuple[Tensor, Tensor, Tensor]:
    """``s = a + b``, ``act((s − mean) · rstd · weight + bias)``, channels_last, and in training s's statistics.

    In training they are made here, and the running ones are updated; in evaluation those of ``norm`` are used, and the
    third result is empty.
    """
    s = (a + b).contiguous(memory_format=torch.channels_last)
    if not norm.training:
        return s, batch_norm_act(s, norm), s.new_empty(0, dtype=norm.statistics.dtype)
    statistics = batch_norm_statistics(s, state)
    return s, batch_norm_act(s, replace(norm, statistics=statistics)), statistics
