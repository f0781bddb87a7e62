"""Lookahead over flat buffers with torch ops."""

import torch
from torch import Tensor

from ..flat.rows import pieces
from ..flat.scalars import FlatScalar


def flat_lookahead(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None, alpha: float, every: int
) -> None:
    """Where STEP is a multiple of ``every``: ``slow ← slow + alpha (w − slow)``, ``w ← slow``, ``copy ← slow``."""
    due = (scalars[FlatScalar.STEP] % every == 0) & (scalars[FlatScalar.SKIP] == 0)
    weight = torch.where(due, alpha, 0.0).to(master.dtype)
    for elements, _ in pieces(master.shape[0]):
        w, average = master[elements], slow[elements]
        average.lerp_(w, weight)
        torch.where(due, average, w, out=w)
        if copy is not None:
            copy[elements].copy_(w)
