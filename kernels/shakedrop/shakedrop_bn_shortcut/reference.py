"""The tail of a PyramidNet block in plain torch: the truth that the kernels are tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.batch_norm_act.reference import normalize
from ..draws import Scaling
from ..reference import scale_branch


def pad_shortcut(x: Tensor, channels: int, pool: bool) -> Tensor:
    """2×2 average pooling, where asked for, that counts only pixels inside the image; then zeros as new channels."""
    if pool:
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    new = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, new)) if new else x


def without_gradient_from(vector: Tensor | None, first: int | None) -> Tensor | None:
    """The same vector; what lies from ``first`` on has no gradient."""
    if vector is None or first is None:
        return vector
    return torch.cat([vector[:first], vector[first:].detach()])


def shakedrop_bn_shortcut_reference(
    h: Tensor,
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
    keep_probability: float = 1.0,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
    level: str = "image",
    keep_level: str = "image",
    true_channels: int | None = None,
) -> Tensor:
    """``shortcut(x) + coefficient · BN(h)``; arguments, result and updated buffers are those of the op.

    Half precision is computed in fp32. Nothing is checked; in training with p below 1 there must be a seed.
    """
    normalized = normalize(
        h,
        running_mean,
        running_var,
        *(without_gradient_from(vector, true_channels) for vector in (weight, bias)),
        num_batches_tracked=num_batches_tracked if training else None,
        training=training or running_mean is None,
        momentum=momentum,
        eps=eps,
    )
    random = training and keep_probability != 1
    scaling = Scaling(seed if random else None, step, indices, keep_probability, layer, level, keep_level)
    shortcut = pad_shortcut(x.to(normalized.dtype), h.shape[1], pool=x.shape[2:] != h.shape[2:])
    return (shortcut + scale_branch(normalized, scaling)).to(h.dtype)
