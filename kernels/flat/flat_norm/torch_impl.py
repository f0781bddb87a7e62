"""The norm over flat buffers with torch ops, piece by piece, the pieces in fp64."""

import torch
from torch import Tensor

from ..rows import pieces


def flat_norm(grad: Tensor, weight: Tensor | None, settings: Tensor | None, eta: float) -> Tensor:
    """``√Σ g²``, or with a weight ``√Σ ((|w| + eta) g)²``, over blocks whose lr_scale is not 0; fp32 or fp64."""
    dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
    cut = [piece for piece in pieces(grad.shape[0], settings, grad.device, dtype) if piece.frozen is not True]
    # one for all pieces: a fresh allocation of this size costs more than the arithmetic
    scratch = grad.new_empty(max((p.elements.stop - p.elements.start for p in cut), default=0), dtype=dtype)
    sums = grad.new_zeros(len(cut), dtype=torch.float64)
    for i, piece in enumerate(cut):
        g = piece.of(grad)
        x = scratch[: g.numel()].view_as(g)
        if weight is None:
            x.copy_(g)
        else:
            torch.abs(piece.of(weight), out=x).add_(eta).mul_(g)
        if isinstance(piece.frozen, Tensor):
            x.masked_fill_(piece.frozen, 0.0)
        # torch sums pairwise, so a piece loses few digits
        sums[i] = x.square_().sum()
    return sums.sum().sqrt().to(dtype)
