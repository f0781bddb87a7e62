"""The tail of a PyramidNet block with torch ops: the op's implementation without Triton."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.batch_norm_act.torch_impl import batch_norm_statistics, input_gradients
from ...batch_norm.state import BatchNormState
from ..draws import Scaling, draw_coefficients


def shakedrop_bn_shortcut_fwd(
    h: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scaling: Scaling,
    with_moments: bool,
) -> tuple[Tensor, Tensor]:
    """``shortcut(x) + (b + α − bα) · BN(h)``, channels_last, and if asked for its moments [2, C] (else empty).

    Both are computed in the statistics' dtype.
    """
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
    if not with_moments:
        return rounded, statistics.new_empty(0)
    var, mean = torch.var_mean(rounded.to(statistics.dtype), dim=(0, 2, 3), correction=0)
    return rounded, torch.stack([mean, var])


def shakedrop_bn_shortcut_for_norm_fwd(
    h: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scaling: Scaling,
    next_norm: BatchNormState,
) -> tuple[Tensor, Tensor]:
    """The output and its statistics [3, C]; the running ones of ``next_norm`` are updated."""
    y, _ = shakedrop_bn_shortcut_fwd(h, x, statistics, weight, bias, scaling, False)
    return y, batch_norm_statistics(y, *next_norm.arguments())


def shakedrop_bn_shortcut_bwd(
    grad: Tensor,
    h: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    in_shape: tuple[int, ...] | None,
    by_batch: bool,
    scaling: Scaling,
    true_channels: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, weight, bias (empty without a weight) and of a pooled x of ``in_shape`` (empty for None)."""
    grad = grad.to(statistics.dtype)
    if scaling.seed is None:
        scaled = grad * scaling.keep_probability
    else:
        _, scale = draw_coefficients(h.shape, h.device, scaling)
        scaled = grad * scale.to(statistics.dtype)
    grad_x = h.new_empty(0)
    if in_shape is not None:
        grad_x = _unpool(grad, in_shape).to(h.dtype).contiguous(memory_format=torch.channels_last)
    grad_h, grad_weight, grad_bias = input_gradients(scaled, h, statistics, weight, by_batch)
    grad_weight[true_channels:] = 0
    grad_bias[true_channels:] = 0
    return grad_h, grad_weight, grad_bias, grad_x


def _unpool(grad: Tensor, in_shape: tuple[int, ...]) -> Tensor:
    """Gradient of the padded, pooled x: each place of a window gets its share."""
    _, channels, *in_size = in_shape
    shared = grad[:, :channels]
    for dim, (size, in_length) in enumerate(zip(grad.shape[2:], in_size, strict=True), start=2):
        shared = shared.repeat_interleave(2, dim).narrow(dim, 0, in_length)
        counts = torch.full((in_length,), 0.5, dtype=grad.dtype, device=grad.device)
        if in_length < 2 * size:
            counts[-1] = 1.0
        shared = shared * counts.reshape(-1, *(1,) * (3 - dim))
    return shared
