"""Batch norm and activation in plain torch: the truth that the kernels are tested against, and what runs on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dropout.draws import Dropping, drop
from ..activations import activate


def batch_norm_act_reference(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    act: str = "relu",
    negative_slope: float = 0.01,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
    return_input: bool = False,
    **settings: Any,
) -> Any:
    """``drop(act(BN(x) [+ residual]))``; arguments, result and updated buffers are those of ``batch_norm_act``.

    Nothing is checked, and nothing dropped without a seed. ``settings`` are those of ``normalize``.
    Half precision is raised to fp32 and the result rounded once; fp64 stays fp64.
    """
    z = normalize(x, running_mean, running_var, weight, bias, **settings)
    if residual is not None:
        z = z.add_(residual)  # a fresh tensor that no gradient needs
    y = activate(z, act, negative_slope)
    if dropout_p and seed is not None:
        y = drop(y, Dropping(seed, step, indices, dropout_p, layer))
    y = y.to(x.dtype)
    return (x, y) if return_input else y


def normalize(
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
) -> Tensor:
    """Batch norm of ``x``, a fresh tensor in fp32 or fp64; the running statistics and their count are updated.

    ``statistics`` of x are computed again, but whoever gives them has updated the running ones.

    torch's batch norm computes ``x · scale − mean · scale``, which cancels where |mean| ≫ std. In training any constant
    may be taken off each channel first, so that the first image's mean is.
    """
    if statistics is not None:
        running_mean = running_var = num_batches_tracked = None
    if training and num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if momentum is None:
        momentum = 0.0
        if training and running_mean is not None:
            assert num_batches_tracked is not None
            momentum = 1 / num_batches_tracked.item()
    # torch's backward for channels_last on a CPU reads a weight with gaps as if it had none
    weight, bias = (None if vector is None else vector.contiguous() for vector in (weight, bias))
    if x.dtype == torch.float64:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    mean, var = running_mean, running_var
    if x.dtype != torch.float32:
        x = x.float()
        mean, var, weight, bias = (None if vector is None else vector.float() for vector in (mean, var, weight, bias))
    if not training:
        return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    shift = x.detach()[0].mean(dim=(1, 2))
    x = x - shift[:, None, None]
    if running_mean is None or running_var is None or mean is None or var is None:
        return F.batch_norm(x, None, None, weight, bias, True, momentum, eps)
    shifted_mean = torch.zeros_like(mean)
    z = F.batch_norm(x, shifted_mean, var, weight, bias, True, momentum, eps)
    running_mean.copy_(torch.lerp(mean, shift, momentum) + shifted_mean)
    if var is not running_var:
        running_var.copy_(var)
    return z
