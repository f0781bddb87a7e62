"""The tail of a PyramidNet block with torch ops: the op's implementation without Triton."""

import torch
from torch import Tensor

from ..batch_norm_act.torch_impl import input_gradients, pre_activation
from ..shakedrop.draws import Scaling, draw_coefficients
from .reference import pad_shortcut


def shakedrop_bn_shortcut_fwd(
    h: Tensor, x: Tensor, statistics: Tensor, weight: Tensor | None, bias: Tensor | None, scaling: Scaling
) -> Tensor:
    """``shortcut(x) + (b + α − bα) · BN(h)``, channels_last, computed in the statistics' dtype."""
    normalized = pre_activation(h, statistics, weight, bias)
    shortcut = pad_shortcut(x.to(statistics.dtype), h.shape[1], pool=x.shape[2:] != h.shape[2:])
    if scaling.seed is None:
        out = normalized.mul_(scaling.keep_probability).add_(shortcut)
    else:
        scale, _ = draw_coefficients(h.shape, h.device, scaling)
        out = torch.addcmul(shortcut, normalized, scale.to(statistics.dtype))
    return out.to(h.dtype).contiguous(memory_format=torch.channels_last)


def shakedrop_bn_shortcut_bwd(
    grad: Tensor,
    h: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    in_shape: tuple[int, ...] | None,
    training: bool,
    scaling: Scaling,
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
    return *input_gradients(scaled, h, statistics, weight, training), grad_x


def _unpool(grad: Tensor, in_shape: tuple[int, ...]) -> Tensor:
    """Gradient of ``pad_shortcut`` with pooling: each place of a window gets its share."""
    _, channels, *in_size = in_shape
    shared = grad[:, :channels]
    for dim, (size, in_length) in enumerate(zip(grad.shape[2:], in_size, strict=True), start=2):
        shared = shared.repeat_interleave(2, dim).narrow(dim, 0, in_length)
        counts = torch.full((in_length,), 0.5, dtype=grad.dtype, device=grad.device)
        if in_length < 2 * size:
            counts[-1] = 1.0
        shared = shared * counts.reshape(-1, *(1,) * (3 - dim))
    return shared
