"""Batch norm, activation and global average pooling in plain torch: the truth, and what runs on a CPU."""

from typing import Any

from torch import Tensor

from ...batch_norm.activations import activate
from ...batch_norm.batch_norm_act.reference import normalize


def global_avg_pool_act_reference(
    x: Tensor, *norm: Tensor | None, act: str = "relu", negative_slope: float = 0.01, **settings: Any
) -> Tensor:
    """``y_nc = mean_hw act(BN(x))_nchw``; arguments, result and updated buffers are those of ``global_avg_pool_act``.

    Nothing is checked. Half precision is raised to fp32 and the result rounded once; fp64 stays fp64.
    """
    z = normalize(x, *norm, **settings)
    return activate(z, act, negative_slope).mean(dim=(2, 3)).to(x.dtype)
