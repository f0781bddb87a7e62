"""The statistics [3, C] of a batch norm: mean, the mean's part below its rounding, ``1/√(var + eps)``.

They are fp32, for fp64 x fp64. Gradients of x go through them in the op that normalises with them, so that the ops here
have none.
"""

import torch
from torch import Tensor

from ...library import operator
from ..arguments import statistics_dtype
from ..state import BUFFERS, BatchNormState
from . import torch_impl


def input_statistics(x: Tensor, state: BatchNormState, training: bool, statistics: Tensor | None = None) -> Tensor:
    """The statistics that normalise x: those that are given, x's own in training, else the running ones.

    The running ones are updated where x's own are computed; whoever gives ``statistics`` has done that.
    """
    if statistics is not None:
        return statistics
    if training:
        return batch_norm_statistics(x, state)
    assert state.running_mean is not None
    assert state.running_var is not None
    return running_statistics(state.running_mean, state.running_var, state.eps)


def batch_norm_statistics(x: Tensor, state: BatchNormState) -> Tensor:
    """The statistics of x [N, C, H, W]; the running ones are updated."""
    return _batch_norm_statistics(x.detach(), state)


def running_statistics(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    """The statistics that normalise in evaluation."""
    if torch.compiler.is_compiling():  # inductor makes one kernel of it, and perhaps of more
        return torch_impl.running_statistics(running_mean, running_var, eps)
    return _running_statistics(running_mean, running_var, eps)


@operator("batch_norm_statistics", mutates=BUFFERS)
def _batch_norm_statistics(x: Tensor, state: BatchNormState) -> Tensor:
    return x.new_empty(3, x.shape[1], dtype=statistics_dtype(x))


@operator("running_statistics")
def _running_statistics(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    return running_mean.new_empty(3, len(running_mean), dtype=statistics_dtype(running_mean))
