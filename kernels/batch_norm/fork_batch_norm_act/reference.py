"""The fork in plain torch: the truth, and what runs on a CPU."""

from typing import Any

from torch import Tensor

from ..batch_norm_act.reference import batch_norm_act_reference


def fork_batch_norm_act_reference(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """``(x, act(BN(x)))``; arguments, results and updated buffers are those of ``fork_batch_norm_act``."""
    return x, batch_norm_act_reference(x, running_mean, running_var, weight, bias, **settings)
