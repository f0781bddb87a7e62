"""``max_pool_bn_act``: batch norm, activation and 2×2 max-pooling; op, autograd, function, module.

The activated image is never written, and neither are indices: the backward finds each window's maximum again from the
same values. Bytes moved, in units of x: forward in training 2¼ (read x twice, write y), in eval 1¼; backward 3½ (read x
and grad twice, write dx). The backward keeps x and [3, C] of statistics.
"""

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...batch_norm.arguments import check_batch_norm
from ...batch_norm.batch_norm_act.module import BatchNormActBase
from ...batch_norm.batch_norm_act.statistics import input_statistics
from ...batch_norm.norm import Norm
from ...batch_norm.state import BatchNormState
from ...library import Gradients, operator, runs_plain_torch
from .reference import max_pool_bn_act_reference

_OP = "max_pool_bn_act"


@names_misfits
def max_pool_bn_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """Maxima of a batch norm and its activation over 2×2 pixels, stride 2: ``y = max_pool2d(act(BN(x)), 2)``.

    An odd last row or column belongs to no window, though to the batch's statistics. Of equal values the first of the
    window, row by row, gets the gradient; NaN is a maximum. They are compared in fp32, before y is rounded. The
    arguments, dtypes, layouts and errors are those of ``batch_norm_act``, whose statistics it shares; H and W are at
    least 2.

    Returns:
        [N, C, H // 2, W // 2] in x's dtype, channels_last (plain torch on a CPU: x's layout). Gradients go to x, weight
        and bias.

    Source: Ioffe, Szegedy, ICML 2015 (batch norm); the pooling is ``torch.nn.MaxPool2d(2)``.
    """
    state = BatchNormState(running_mean, running_var, num_batches_tracked, momentum, eps)
    check_batch_norm(x, state, weight, bias, training, act, negative_slope)
    if min(x.shape[2:]) < 2:
        raise ValueError(f"x must have H and W of at least 2 for a 2×2 window, got {list(x.shape)}")
    if runs_plain_torch(_OP, x):
        settings = {**state.arguments(), "training": training, "act": act, "negative_slope": negative_slope}
        return max_pool_bn_act_reference(x, weight=weight, bias=bias, **settings)
    x = x.contiguous(memory_format=torch.channels_last)
    return forward(x, Norm(input_statistics(x, state, training), weight, bias, training, act, negative_slope))


class MaxPoolBatchNormAct2d(BatchNormActBase):
    """2×2 maxima of ``act(BN(x))``; replaces ``torch.nn.BatchNorm2d``, activation and pooling.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(x)`` takes [N, C, H, W] and
    returns [N, C, H // 2, W // 2]. See ``max_pool_bn_act`` for dtypes, layouts and errors.
    """

    def forward(self, x: Tensor) -> Tensor:
        return max_pool_bn_act(x, **self._arguments())


@operator(_OP)
def forward(x: Tensor, norm: Norm) -> Tensor:
    return torch.empty_like(x[:, :, : x.shape[2] // 2, : x.shape[3] // 2], memory_format=torch.channels_last)


@operator("max_pool_bn_act_backward")
def backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), *norm.empty_gradients()


@forward.backward
def _gradients(grad: Tensor, x: Tensor, norm: Norm) -> Gradients:
    return dict(zip(("x", "weight", "bias"), backward(grad, x, norm), strict=True))
