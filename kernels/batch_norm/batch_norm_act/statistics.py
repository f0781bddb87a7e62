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
    return running_statistics(state)


def statistics_before(x: Tensor, state: BatchNormState, training: bool) -> tuple[Tensor, BatchNormState]:
    """What an op takes that makes its statistics itself in training: empty ones, and the state to update.

    In evaluation it takes the running ones, and nothing to update. x is of the dtype that it normalises.
    """
    if training:
        return x.new_empty(0, dtype=statistics_dtype(x)), state
    return running_statistics(state), state.without_buffers()


def batch_norm_statistics(x: Tensor, state: BatchNormState) -> Tensor:
    """The statistics of x [N, C, H, W]; the running ones are updated."""
    return _batch_norm_statistics(x.detach(), state)


def running_statistics(state: BatchNormState) -> Tensor:
    """The statistics that normalise in evaluation."""
    assert state.running_mean is not None
    assert state.running_var is not None
    # inductor makes one kernel of it, and perhaps of more
    function = torch_impl.running_statistics if torch.compiler.is_compiling() else _running_statistics
    return function(state.running_mean, state.running_var, float(state.eps))


@operator("batch_norm_statistics", mutates=BUFFERS)
def _batch_norm_statistics(x: Tensor, state: BatchNormState) -> Tensor:
    return x.new_empty(3, x.shape[1], dtype=statistics_dtype(x))


@operator("running_statistics")
def _running_statistics(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    return running_mean.new_empty(3, len(running_mean), dtype=statistics_dtype(running_mean))
