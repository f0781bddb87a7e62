"""``batch_norm_act`` with ``return_input``, by its old name."""

from typing import Any

from torch import Tensor

from ..batch_norm_act import batch_norm_act


def fork_batch_norm_act(x: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """``(x, act(BN(x)))``: ``batch_norm_act`` with ``return_input``."""
    return batch_norm_act(x, *args, return_input=True, **settings)


__all__ = ["fork_batch_norm_act"]
