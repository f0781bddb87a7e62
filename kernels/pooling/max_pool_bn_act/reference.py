"""Batch norm, activation and 2×2 max-pooling in plain torch: the truth, and what runs on a CPU."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.activations import activate
from ...batch_norm.batch_norm_act.reference import normalize


def max_pool_bn_act_reference(
    x: Tensor, *norm: Tensor | None, act: str = "relu", negative_slope: float = 0.01, **settings: Any
) -> Tensor:
    """``y = max_pool2d(act(BN(x)), 2)``; arguments, result and updated buffers are those of ``max_pool_bn_act``.

    Nothing is checked. Half precision is raised to fp32 and the result rounded once; fp64 stays fp64.
    """
    z = normalize(x, *norm, **settings)
    return F.max_pool2d(activate(z, act, negative_slope), 2).to(x.dtype)
