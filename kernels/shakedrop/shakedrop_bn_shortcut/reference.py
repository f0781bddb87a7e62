"""The tail of a PyramidNet block in plain torch: the truth that the kernels are tested against."""

from typing import Any

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
    training: bool = False,
    true_channels: int | None = None,
    **settings: Any,
) -> Tensor:
    """``shortcut(x) + coefficient · BN(h)``; arguments, result and updated buffers are those of the op.

    Half precision is computed in fp32. Nothing is checked; in training with p below 1 there must be a seed.
    """
    norm = {name: settings.pop(name) for name in ("num_batches_tracked", "momentum", "eps") if name in settings}
    if not training:
        norm.pop("num_batches_tracked", None)
    vectors = (without_gradient_from(vector, true_channels) for vector in (weight, bias))
    by_batch = training or running_mean is None
    normalized = normalize(h, running_mean, running_var, *vectors, training=by_batch, **norm)
    shortcut = pad_shortcut(x.to(normalized.dtype), h.shape[1], pool=x.shape[2:] != h.shape[2:])
    scaling = Scaling.of(settings.pop("keep_probability", 1.0), training, **settings)
    return (shortcut + scale_branch(normalized, scaling)).to(h.dtype)
