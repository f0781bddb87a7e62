"""Triton kernel of the perturbation and the function that launches it."""

import triton
import triton.language as tl
from torch import Tensor

from ..triton_common import COLUMNS, ROW, launch, load, store
from .torch_impl import NORM_EPS

EPS = tl.constexpr(NORM_EPS)


@triton.jit
def flat_perturb_kernel(
    copy_ptr,  # [P]
    master_ptr,  # [P] fp32
    grad_ptr,  # [P]
    norm_ptr,  # [] fp32
    settings_ptr,  # [blocks, 3] fp32 or None
    n,
    rho,
    eta,
    ADAPTIVE: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``copy = w + rho · t² · g / (norm + 1e-12)`` with ``t = |w| + eta`` if ADAPTIVE, else 1; frozen blocks: w."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    w = load(master_ptr, offsets, n, EVEN)
    g = load(grad_ptr, offsets, n, EVEN)
    e = g * (rho / (tl.load(norm_ptr) + EPS))
    if ADAPTIVE:
        t = tl.abs(w) + eta
        e *= t * t
    if settings_ptr is not None:
        e = tl.where(tl.load(settings_ptr + start // ROW * COLUMNS) != 0, e, 0.0)
    store(copy_ptr, offsets, w + e, n, EVEN)


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
    n = master.shape[0]
    tensors = (copy, master, grad, norm, settings)
    launch("flat_perturb", flat_perturb_kernel, n, *tensors, n, rho, eta, ADAPTIVE=adaptive)
