"""Lookahead over flat buffers with torch ops."""

import torch
from torch import Tensor

from ..rows import number
from ..scalars import FlatScalar


def flat_lookahead(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None, alpha: float, every: int
) -> None:
    """Where STEP is a multiple of ``every``: ``slow ← slow + alpha (w − slow)``, ``w ← slow``, ``copy ← slow``."""
    due = number((scalars[FlatScalar.STEP] % every == 0) & (scalars[FlatScalar.SKIP] == 0), torch.bool)
    if isinstance(due, Tensor):
        slow.lerp_(master, torch.where(due, alpha, 0.0).to(slow.dtype))
        torch.where(due, slow, master, out=master)
    elif due:
        slow.lerp_(master, alpha)
        master.copy_(slow)
    else:
        return
    if copy is not None:
        copy.copy_(master)
