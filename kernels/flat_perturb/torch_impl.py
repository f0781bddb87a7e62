"""The perturbation over flat buffers with torch ops."""

from torch import Tensor

from ..flat.rows import active_rows, pieces, rows

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
    scale = rho / (norm.to(master.dtype) + NORM_EPS)
    for elements, blocks in pieces(master.shape[0]):
        w = rows(master, elements, blocks)
        e = rows(grad, elements, blocks).to(w.dtype) * scale
        if adaptive:
            e = e * (w.abs() + eta).square()
        active = active_rows(settings, blocks)
        perturbed = w + (e if active is None else e.where(active, 0.0))
        rows(copy, elements, blocks).copy_(perturbed)
