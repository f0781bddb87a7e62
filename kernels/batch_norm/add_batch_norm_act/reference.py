"""The sum and its batch norm in plain torch: the truth, and what runs on a CPU."""

from typing import Any

from torch import Tensor

from ..batch_norm_act.reference import batch_norm_act_reference


def add_batch_norm_act_reference(a: Tensor, b: Tensor, *norm: Tensor | None, **settings: Any) -> tuple[Tensor, Tensor]:
    """``(s, act(BN(s)))`` with ``s = a + b`` rounded; arguments and results are those of ``add_batch_norm_act``."""
    s = a + b
    return s, batch_norm_act_reference(s, *norm, **settings)
