"""The small ops over flat buffers with torch ops."""

import torch
from torch import Tensor

from .rows import number, pieces
from .scalars import FlatScalar

# keeps a gradient of zero from being divided by its norm
NORM_EPS = 1e-12


def flat_ema(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """``ema ← ema + (1 − EMA_DECAY)(w − ema)``."""
    ema.lerp_(master, number(1 - scalars[FlatScalar.EMA_DECAY], ema.dtype))


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
