"""Triton kernels of the small ops over flat buffers and the functions that launch them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..last_block import is_last_block, take_counters
from ..tuning.tables import tile
from . import triton_common as common
from .torch_impl import NORM_EPS
from .triton_common import COLUMNS, ROW, launch, lerp, load, store

EPS = tl.constexpr(NORM_EPS)
FINISH_BLOCK = tl.constexpr(1024)


@triton.jit
def flat_ema_kernel(
    ema_ptr,  # [P] fp32
    master_ptr,  # [P] fp32
    scalars_ptr,  # [len(FlatScalar)] fp64
    n,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``ema = ema + (1 − d)(w − ema)``, d = EMA_DECAY."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ema = load(ema_ptr, offsets, n, EVEN)
    w = load(master_ptr, offsets, n, EVEN)
    decay = tl.load(scalars_ptr + common.EMA_DECAY)
    store(ema_ptr, offsets, lerp(ema, w, (1 - decay).to(tl.float32), decay.to(tl.float32)), n, EVEN)


def flat_ema(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """``ema ← ema + (1 − EMA_DECAY)(w − ema)``."""
    n = master.shape[0]
    launch("flat_ema", flat_ema_kernel, n, ema, master, scalars, n)


@triton.jit
def flat_lookahead_kernel(
    master_ptr,  # [P] fp32
    slow_ptr,  # [P] fp32
    scalars_ptr,  # [len(FlatScalar)] fp64
    copy_ptr,  # [P] or None
    n,
    alpha,
    one_minus_alpha,
    every,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where STEP is a multiple of ``every``: ``slow = slow + α (w − slow)``, ``w = slow``, ``copy = slow``."""
    step = tl.load(scalars_ptr + common.STEP).to(tl.int64)
    skip = tl.load(scalars_ptr + common.SKIP) != 0
    if (step % every == 0) & (skip == 0):
        offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        w = load(master_ptr, offsets, n, EVEN)
        slow = load(slow_ptr, offsets, n, EVEN)
        slow = lerp(slow, w, alpha, one_minus_alpha)
        store(slow_ptr, offsets, slow, n, EVEN)
        store(master_ptr, offsets, slow, n, EVEN)
        if copy_ptr is not None:
            store(copy_ptr, offsets, slow, n, EVEN)


def flat_lookahead(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None, alpha: float, every: int
) -> None:
    """Where STEP is a multiple of ``every``: ``slow ← slow + alpha (w − slow)``, ``w ← slow``, ``copy ← slow``."""
    n = master.shape[0]
    launch("flat_lookahead", flat_lookahead_kernel, n, master, slow, scalars, copy, n, alpha, 1 - alpha, every)


@triton.jit(do_not_specialize=["first_counter"])
def flat_norm_kernel(
    grad_ptr,  # [P]
    weight_ptr,  # [P] or None
    settings_ptr,  # [blocks, 3] fp32 or None
    partial_ptr,  # [programs] fp32
    norm_ptr,  # [] fp32
    counters_ptr,
    n,
    first_counter,
    eta,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
    REPEATS: tl.constexpr,
):
    """``norm = √Σ x²`` with x = g, or (|w| + eta) · g; frozen blocks count nothing.

    A program adds up REPEATS · BLOCK elements, and the last one all programs' sums in fp64.
    """
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

    programs = tl.num_programs(0)
    if is_last_block(counters_ptr + first_counter, programs):
        index = tl.arange(0, FINISH_BLOCK)
        norm = tl.zeros([FINISH_BLOCK], tl.float64)
        done = 0
        while done < programs:
            ok = done + index < programs
            norm += tl.load(partial_ptr + done + index, mask=ok, other=0.0, cache_modifier=".cg").to(tl.float64)
            done += FINISH_BLOCK
        tl.store(norm_ptr, tl.sqrt(tl.sum(norm, axis=0)).to(tl.float32))


def flat_norm(grad: Tensor, weight: Tensor | None, settings: Tensor | None, eta: float) -> Tensor:
    """``√Σ g²``, or with a weight ``√Σ ((|w| + eta) g)²``, over blocks whose lr_scale is not 0; fp32."""
    n = grad.shape[0]
    tiles = tile("flat_norm", n, grad.device)
    span = tiles["block"] * tiles["repeats"]
    partial = grad.new_empty(triton.cdiv(n, span), dtype=torch.float32)
    norm = grad.new_empty((), dtype=torch.float32)
    counters, first_counter = take_counters(1, grad.device)
    with torch.cuda.device_of(grad):
        flat_norm_kernel[(partial.shape[0],)](
            grad,
            weight,
            settings,
            partial,
            norm,
            counters,
            n,
            first_counter,
            eta,
            EVEN=n % span == 0,
            BLOCK=tiles["block"],
            REPEATS=tiles["repeats"],
            num_warps=tiles["num_warps"],
        )
    return norm


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
