"""Batch norm and activation in plain torch: the truth that the kernels are tested against, and what runs on a CPU."""

import torch.nn.functional as F
from torch import Tensor

from .activations import activate


def batch_norm_act_reference(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    num_batches_tracked: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    """``y = act(BN(x) [+ residual])``; arguments, result and updated buffers are those of ``batch_norm_act``.

    Nothing is checked. Every step rounds to x's dtype; fp64 stays fp64.
    """
    if training and num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if momentum is None:
        momentum = 0.0
        if training and running_mean is not None:
            assert num_batches_tracked is not None
            momentum = 1 / num_batches_tracked.item()
    z = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if residual is not None:
        z = z.add_(residual)  # a fresh tensor that no gradient needs
    return activate(z, act, negative_slope)
