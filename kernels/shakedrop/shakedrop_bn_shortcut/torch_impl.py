"""The tail of a PyramidNet block with torch ops: the op's implementation without Triton."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.batch_norm_act.torch_impl import batch_norm_statistics, input_gradients
from ...batch_norm.norm import Norm
from ...batch_norm.state import BatchNormState
from ..draws import Scaling, draw_coefficients


def shakedrop_bn_shortcut(
    h: Tensor,
    x: Tensor,
    norm: Norm,
    scaling: Scaling,
    true_channels: int,
    next_norm: BatchNormState,
    wants_statistics: bool,
) -> tuple[Tensor, Tensor]:
    """``shortcut(x) + (b + α − bα) · BN(h)``, channels_last, and its statistics if asked for (else empty).

    It is computed in the statistics' dtype; the running ones of ``next_norm`` are updated.
    """
    statistics, weight, bias = norm.statistics, norm.weight, norm.bias
    mean, low, rstd = (row[:, None, None] for row in statistics)
    scale = rstd if weight is None else rstd * weight[:, None, None]
    shift = -low * scale if bias is None else bias[:, None, None] - low * scale
    out = torch.addcmul(shift, h.to(statistics.dtype) - mean, scale)
    if scaling.seed is None:
        out.mul_(scaling.keep_probability)
    else:
        out.mul_(draw_coefficients(h.shape, h.device, scaling)[0])
    shortcut = x.to(statistics.dtype)
    if x.shape[2:] != h.shape[2:]:
        shortcut = F.avg_pool2d(shortcut, 2, ceil_mode=True)
    out[:, : x.shape[1]] += shortcut
    rounded = out.to(h.dtype).contiguous(memory_format=torch.channels_last)
    return rounded, batch_norm_statistics(rounded, next_norm) if wants_statistics else statistics.new_empty(0)


def shakedrop_bn_shortcut_backward(
    grad: Tensor, h: Tensor, norm: Norm, scaling: Scaling, true_channels: int, in_shape: list[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, weight, bias (empty without a weight) and of a pooled x of ``in_shape`` (empty for None)."""
    grad = grad.to(norm.statistics.dtype)
    if scaling.seed is None:
        scaled = grad * scaling.keep_probability
    else:
        _, scale = draw_coefficients(h.shape, h.device, scaling)
        scaled = grad * scale.to(grad.dtype)
    grad_x = h.new_empty(0)
    if in_shape is not None:
        grad_x = _unpool(grad, in_shape).to(h.dtype).contiguous(memory_format=torch.channels_last)
    grad_h, grad_weight, grad_bias = input_gradients(scaled, h, norm.statistics, norm.weight, norm.training)
    grad_weight[true_channels:] = 0
    grad_bias[true_channels:] = 0
    return grad_h, grad_weight, grad_bias, grad_x


def _unpool(grad: Tensor, in_shape: list[int]) -> Tensor:
    """Gradient of the padded, pooled x: each place of a window gets its share."""
    x, window = grad.new_empty(in_shape), [2, 2]
    return torch.ops.aten.avg_pool2d_backward(grad[:, : in_shape[1]], x, window, window, [0, 0], True, False, None)
