"""``global_avg_pool_act``: batch norm, activation and mean over the image; the torch op, its autograd, the function.

The activated image is never written. Bytes moved, in units of x: forward in training 2 (read x twice), in eval 1;
backward 3 (read x twice, write dx). The backward keeps x and [3, C] of statistics.
"""

from typing import Any

import torch
from torch import Tensor

from ...batch_norm.arguments import check_arguments, runs_plain_torch
from ...batch_norm.norm import Norm
from ...batch_norm.state import Statistics
from ...batch_norm.statistics_input import buffers_to_update, check_statistics, statistics_of
from ...library import Gradients, operator
from .reference import global_avg_pool_act_reference

_OP = "global_avg_pool_act"


def global_avg_pool_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: Statistics | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """Mean over the image of a batch norm and its activation: ``y_nc = mean_hw act(BN(x))_nchw``.

    The arguments, dtypes, layouts and errors are those of ``batch_norm_act``, whose statistics and gradients it shares;
    ``statistics`` is that of ``fork_batch_norm_act``, whose mean costs up to ``3 |mean| · 2⁻²⁴ / std`` of accuracy.

    Returns:
        [N, C] in x's dtype; sums are fp32 in a fixed order. Gradients go to x, weight and bias.

    Source: Lin, Chen, Yan, "Network in Network", ICLR 2014 (the pooling); Ioffe, Szegedy, ICML 2015 (batch norm).
    """
    settings: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    settings |= {"act": act, "negative_slope": negative_slope}
    check_arguments(x, running_mean, running_var, weight, bias, num_batches_tracked, **settings)
    if statistics is not None:
        check_statistics(statistics, x, training)
    running_mean, running_var, num_batches_tracked = buffers_to_update(
        statistics, running_mean, running_var, num_batches_tracked
    )
    if runs_plain_torch(_OP, x):
        return global_avg_pool_act_reference(
            x, running_mean, running_var, weight, bias, num_batches_tracked=num_batches_tracked, **settings
        )
    x = x.contiguous(memory_format=torch.channels_last)
    stats = statistics_of(x, statistics, running_mean, running_var, num_batches_tracked, training, momentum, eps)
    return forward(x, Norm(stats, weight, bias, training, act, float(negative_slope)))


@operator("global_avg_pool_act")
def forward(x: Tensor, norm: Norm) -> Tensor:
    return x.new_empty(x.shape[:2])


@operator("global_avg_pool_act_backward")
def backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), *norm.empty_gradients()


@forward.backward
def _gradients(grad: Tensor, x: Tensor, norm: Norm) -> Gradients:
    return dict(zip(("x", "weight", "bias"), backward(grad, x, norm), strict=True))
