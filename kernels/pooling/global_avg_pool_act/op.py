"""``global_avg_pool_act``: batch norm, activation and mean over the image; op, autograd, function, module.

The activated image is never written. Bytes moved, in units of x: forward in training 2 (read x twice), in eval 1;
backward 3 (read x twice, write dx). The backward keeps x and [3, C] of statistics.
"""

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...batch_norm.arguments import check_batch_norm, check_statistics
from ...batch_norm.batch_norm_act.module import BatchNormActBase
from ...batch_norm.batch_norm_act.statistics import input_statistics
from ...batch_norm.norm import Norm
from ...batch_norm.state import BatchNormState
from ...library import Gradients, operator, runs_plain_torch
from .reference import global_avg_pool_act_reference

_OP = "global_avg_pool_act"


@names_misfits
def global_avg_pool_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """Mean over the image of a batch norm and its activation: ``y_nc = mean_hw act(BN(x))_nchw``.

    The arguments, dtypes, layouts and errors are those of ``batch_norm_act``, whose statistics and gradients it shares.

    Returns:
        [N, C] in x's dtype; sums are fp32 in a fixed order. Gradients go to x, weight and bias.

    Source: Lin, Chen, Yan, "Network in Network", ICLR 2014 (the pooling); Ioffe, Szegedy, ICML 2015 (batch norm).
    """
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    check_batch_norm(x, state, weight, bias, training, act, negative_slope)
    check_statistics(statistics, x, training)
    if runs_plain_torch(_OP, x):
        settings = {**state.arguments(), "training": training, "act": act, "negative_slope": negative_slope}
        return global_avg_pool_act_reference(x, weight=weight, bias=bias, statistics=statistics, **settings)
    x = x.contiguous(memory_format=torch.channels_last)
    statistics = input_statistics(x, state, training, statistics)
    return forward(x, Norm(statistics, weight, bias, training, act, negative_slope))


class GlobalAvgPoolAct2d(BatchNormActBase):
    """``act(BN(x))`` averaged over the image; replaces ``torch.nn.BatchNorm2d``, activation and pooling.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(x)`` takes [N, C, H, W] and
    returns [N, C]. See ``global_avg_pool_act`` for dtypes, layouts and errors.
    """

    def forward(self, x: Tensor) -> Tensor:
        return global_avg_pool_act(x, **self._arguments())


@operator(_OP)
def forward(x: Tensor, norm: Norm) -> Tensor:
    return x.new_empty(x.shape[:2])


@operator("global_avg_pool_act_backward")
def backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), *norm.empty_gradients()


@forward.backward
def _gradients(grad: Tensor, x: Tensor, norm: Norm) -> Gradients:
    return dict(zip(("x", "weight", "bias"), backward(grad, x, norm), strict=True))
