"""The perturbation over flat buffers with torch ops."""

import torch
from torch import Tensor

from ..rows import number, pieces

# keeps a gradient of zero from being divided by its norm
NORM_EPS = 1e-12


def flat_perturb(
    copy: Tensor,
    master: Tensor,
    grad: Tensor,
    norm: Tensor,
    settings: Tensor | None,
    rho: float,
    adaptive: bool,
    eta: float,
) -> None:
    """``copy ← w + rho·t²·g / (norm + 1e-12)``; t = |w| + eta if adaptive, else 1; blocks with lr_scale 0 get w."""
    scale = number(rho / (norm.double().view(()) + NORM_EPS), master.dtype)
    for piece in pieces(master.shape[0], settings, master.device, master.dtype):
        w = piece.of(master)
        if piece.frozen is True:
            piece.of(copy).copy_(w)
            continue
        e = piece.of(grad).to(w.dtype) * scale
        if adaptive:
            e.mul_(w.abs().add_(eta).square_())
        if isinstance(piece.frozen, Tensor):
            e = torch.where(piece.frozen, 0.0, e)
        piece.of(copy).copy_(e.add_(w))
