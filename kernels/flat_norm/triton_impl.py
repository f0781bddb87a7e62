"""Triton kernels of the norm over flat buffers: partial sums in a fixed order, then one program over them."""

# kernel parameters are pointers and scalars that Triton types by itself
# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..flat.table import FLAT_BLOCK, SETTINGS
from ..flat.triton_common import load
from ..tuning import tile

ROW = tl.constexpr(FLAT_BLOCK)
COLUMNS = tl.constexpr(SETTINGS)
FINISH_BLOCK = 1024


@triton.jit
def flat_norm_partial_kernel(
    grad_ptr,  # [P]
    weight_ptr,  # [P] or None
    settings_ptr,  # [blocks, 3] fp32 or None
    partial_ptr,  # [programs] fp32
    n,
    eta,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
    REPEATS: tl.constexpr,
):
    """``partial = Σ x²`` over REPEATS · BLOCK elements; x = g, or (|w| + eta) · g; frozen blocks count nothing."""
    start = tl.program_id(0).to(tl.int64) * (BLOCK * REPEATS)
    total = tl.zeros([BLOCK], tl.float32)
    for repeat in tl.static_range(REPEATS):
        first = start + repeat * BLOCK
        offsets = first + tl.arange(0, BLOCK)
        x = load(grad_ptr, offsets, n, EVEN)
        if weight_ptr is not None:
            x *= tl.abs(load(weight_ptr, offsets, n, EVEN)) + eta
        if settings_ptr is not None:
            lr_scale = tl.load(settings_ptr + first // ROW * COLUMNS, mask=first < n, other=0.0)
            x = tl.where(lr_scale != 0, x, 0.0)
        total += x * x
    tl.store(partial_ptr + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def flat_norm_finish_kernel(partial_ptr, norm_ptr, n_partials, BLOCK: tl.constexpr):
    """``norm = √Σ_i partial_i``, in fp64. One program: the order is fixed."""
    index = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    start = 0
    while start < n_partials:
        total += tl.load(partial_ptr + start + index, mask=start + index < n_partials, other=0.0).to(tl.float64)
        start += BLOCK
    tl.store(norm_ptr, tl.sqrt(tl.sum(total, axis=0)).to(tl.float32))


def flat_norm(grad: Tensor, weight: Tensor | None, settings: Tensor | None, eta: float) -> Tensor:
    """``√Σ g²``, or with a weight ``√Σ ((|w| + eta) g)²``, over blocks whose lr_scale is not 0; fp32."""
    n = grad.shape[0]
    tiles = tile("flat_norm", n, grad.device)
    span = tiles["block"] * tiles["repeats"]
    partial = grad.new_empty(triton.cdiv(n, span), dtype=torch.float32)
    norm = grad.new_empty((), dtype=torch.float32)
    with torch.cuda.device_of(grad):
        flat_norm_partial_kernel[(partial.shape[0],)](
            grad,
            weight,
            settings,
            partial,
            n,
            eta,
            EVEN=n % span == 0,
            BLOCK=tiles["block"],
            REPEATS=tiles["repeats"],
            num_warps=tiles["num_warps"],
        )
        flat_norm_finish_kernel[(1,)](partial, norm, partial.shape[0], BLOCK=FINISH_BLOCK, num_warps=4)
    return norm
