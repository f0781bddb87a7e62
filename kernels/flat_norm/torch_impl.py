"""The norm over flat buffers with torch ops, summed in fp64 piece by piece."""

import torch
from torch import Tensor

from ..flat.rows import active_rows, pieces, rows


def flat_norm(grad: Tensor, weight: Tensor | None, settings: Tensor | None, eta: float) -> Tensor:
    """``√Σ g²``, or with a weight ``√Σ ((|w| + eta) g)²``, over blocks whose lr_scale is not 0; fp32 (fp64 for fp64)."""
    dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
    sums = []
    for elements, blocks in pieces(grad.shape[0]):
        g = rows(grad, elements, blocks).to(dtype)
        if weight is not None:
            g = g * (rows(weight, elements, blocks).abs() + eta)
        active = active_rows(settings, blocks)
        if active is not None:
            g = torch.where(active, g, 0.0)
        sums.append(torch.linalg.vector_norm(g, dtype=torch.float64).square())
    return torch.stack(sums).sum().sqrt().to(dtype)
