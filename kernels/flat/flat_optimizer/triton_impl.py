"""Triton kernels of the optimizer step and the functions that launch them."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import triton_common as common
from ..triton_common import COLUMNS, ROW, launch, lerp, load, store
from .rule import Buffers, Rule

LOG_096 = tl.constexpr(math.log(0.96))


@triton.jit
def flat_optimizer_advance_kernel(
    scalars_ptr,  # [len(FlatScalar)] fp64
    RULE: tl.constexpr,
    BETA1: tl.constexpr,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    EXTRA: tl.constexpr,
):
    """``t ← t + 1`` and the factors of step t, in fp64: ``lr / (1 − β₁ᵗ)``, ``1/√(1 − β₂ᵗ)``, NAdam's momenta
    ``μ_t = β₁ (1 − ½·0.96^(t·EXTRA))`` and their product, Adagrad's ``lr / (1 + (t − 1)·EXTRA)``. One program.
    """
    lr = tl.load(scalars_ptr + common.LR)
    skip = tl.load(scalars_ptr + common.SKIP) != 0
    t = tl.load(scalars_ptr + common.STEP)
    t = tl.where(skip, t, t + 1)
    step_size = lr
    if RULE == "adam" or RULE == "adamax":
        step_size = lr / (1 - tl.exp(t * LOG_BETA1))
    if RULE == "adam" or RULE == "nadam":
        tl.store(scalars_ptr + common.ROOT_FACTOR, 1 / tl.sqrt(1 - tl.exp(t * LOG_BETA2)))
    if RULE == "adagrad":
        step_size = lr / (1 + (t - 1) * EXTRA)
    if RULE == "nadam":
        mu = BETA1 * (1 - 0.5 * tl.exp(t * (EXTRA * LOG_096)))
        mu_next = BETA1 * (1 - 0.5 * tl.exp((t + 1) * (EXTRA * LOG_096)))
        product = tl.load(scalars_ptr + common.MU_PRODUCT)
        product = tl.where(skip, product, product * mu)
        tl.store(scalars_ptr + common.MU_PRODUCT, product)
        tl.store(scalars_ptr + common.GRAD_STEP, lr * (1 - mu) / (1 - product))
        step_size = lr * mu_next / (1 - product * mu_next)
    tl.store(scalars_ptr + common.STEP, t)
    tl.store(scalars_ptr + common.STEP_SIZE, step_size)
    factor = tl.load(scalars_ptr + common.GRAD_SCALE) * tl.load(scalars_ptr + common.CLIP)
    tl.store(scalars_ptr + common.GRAD_FACTOR, factor)


@triton.jit
def _update(
    g, m, v, step_size, grad_step, root_factor, decay1, rate1, decay2, rate2, eps, RULE: tl.constexpr,
    HAS_MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr
):  # fmt: skip
    """What is taken from w, the new m and v; see ``reference.update``. A state that a rule does not have stays."""
    if RULE == "sgd":
        direction = g
        if HAS_MOMENTUM:
            m = decay1 * m + g
            direction = m
            if NESTEROV:
                direction = g + decay1 * m
        delta = step_size * direction
    elif RULE == "adagrad":
        v = v + g * g
        delta = step_size * (g / (tl.sqrt(v) + eps))
    elif RULE == "adamax":
        m = m + rate1 * (g - m)
        v = tl.maximum(decay2 * v, tl.abs(g) + eps, propagate_nan=tl.PropagateNan.ALL)
        delta = step_size * (m / v)
    else:
        v = decay2 * v + rate2 * g * g
        if RULE == "rmsprop":
            direction = g / (tl.sqrt(v) + eps)
            if HAS_MOMENTUM:
                m = decay1 * m + direction
                direction = m
            delta = step_size * direction
        else:
            m = m + rate1 * (g - m)
            numerator = step_size * m
            if RULE == "nadam":
                numerator += grad_step * g
            delta = numerator / (tl.sqrt(v) * root_factor + eps)
    return delta, m, v


@triton.jit
def flat_optimizer_step_kernel(
    master_ptr,  # [P] fp32
    grad_ptr,  # [P]
    momentum_ptr,  # [P] fp32 or None
    second_moment_ptr,  # [P] fp32 or None
    ema_ptr,  # [P] fp32 or None
    copy_ptr,  # [P] or None
    settings_ptr,  # [blocks, 3] fp32
    scalars_ptr,  # [len(FlatScalar)] fp64
    n,
    decay1,
    rate1,  # 1 − decay1, from fp64
    decay2,
    rate2,  # 1 − decay2, from fp64
    eps,
    RULE: tl.constexpr,
    NESTEROV: tl.constexpr,
    DECOUPLED: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``g ← grad · factor + (2·l2 [+ weight_decay]) w``; ``w ← w − (update(g) [+ lr · lr_scale · weight_decay · w])``;
    ``ema ← ema + (1 − d)(w − ema)``; ``copy ← w``. Where lr_scale is 0 or the step is skipped w and state stay.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    w = load(master_ptr, offsets, n, EVEN)
    g = load(grad_ptr, offsets, n, EVEN)
    m, v = w, w
    if momentum_ptr is not None:
        m = load(momentum_ptr, offsets, n, EVEN)
    if second_moment_ptr is not None:
        v = load(second_moment_ptr, offsets, n, EVEN)
    if ema_ptr is not None:
        ema = load(ema_ptr, offsets, n, EVEN)

    row = settings_ptr + start // ROW * COLUMNS
    lr_scale = tl.load(row)
    weight_decay = tl.load(row + 1)
    l2 = tl.load(row + 2)
    lr = tl.load(scalars_ptr + common.LR).to(tl.float32) * lr_scale
    step_size = tl.load(scalars_ptr + common.STEP_SIZE).to(tl.float32) * lr_scale
    grad_step = tl.load(scalars_ptr + common.GRAD_STEP).to(tl.float32) * lr_scale
    root_factor = tl.load(scalars_ptr + common.ROOT_FACTOR).to(tl.float32)
    skip = tl.load(scalars_ptr + common.SKIP) != 0
    g = g * tl.load(scalars_ptr + common.GRAD_FACTOR).to(tl.float32)

    if DECOUPLED:
        g += (2 * l2) * w
    else:
        g += (2 * l2 + weight_decay) * w
    delta, new_m, new_v = _update(
        g, m, v, step_size, grad_step, root_factor, decay1, rate1, decay2, rate2, eps,
        RULE, momentum_ptr is not None, NESTEROV
    )  # fmt: skip
    if DECOUPLED:
        # shrinking the weights first would round them twice
        delta += (lr * weight_decay) * w
    active = (lr_scale != 0) & (skip == 0)
    w = tl.where(active, w - delta, w)
    store(master_ptr, offsets, w, n, EVEN)
    if momentum_ptr is not None:
        store(momentum_ptr, offsets, tl.where(active, new_m, m), n, EVEN)
    if second_moment_ptr is not None:
        store(second_moment_ptr, offsets, tl.where(active, new_v, v), n, EVEN)
    if ema_ptr is not None:
        decay = tl.load(scalars_ptr + common.EMA_DECAY)
        decay = tl.where(skip, 1.0, decay)
        averaged = lerp(ema, w, (1 - decay).to(tl.float32), decay.to(tl.float32))
        store(ema_ptr, offsets, averaged, n, EVEN)
    if copy_ptr is not None:
        store(copy_ptr, offsets, w, n, EVEN)


def log_or_huge(beta: float) -> float:
    """log β, for β = 0 a number whose exponential is 0."""
    return math.log(beta) if beta > 0 else -1e4


def flat_optimizer(buffers: Buffers, settings: Tensor, scalars: Tensor, rule: Rule) -> None:
    """One step, in place: a launch for the scalars and one for the buffers."""
    master, decay1, decay2 = buffers.master, rule.decay1, rule.decay2
    n = master.shape[0]
    with torch.cuda.device_of(master):
        flat_optimizer_advance_kernel[(1,)](
            scalars,
            RULE=rule.name,
            BETA1=decay1,
            LOG_BETA1=log_or_huge(decay1),
            LOG_BETA2=log_or_huge(decay2),
            EXTRA=rule.extra,
            num_warps=1,
        )
    tensors = (master, buffers.grad, buffers.momentum, buffers.second_moment, buffers.ema, buffers.copy)
    numbers = (n, decay1, 1 - decay1, decay2, 1 - decay2, rule.eps)
    settings_of_rule = {"RULE": rule.name, "NESTEROV": rule.nesterov, "DECOUPLED": rule.decoupled}
    launch("flat_optimizer", flat_optimizer_step_kernel, n, *tensors, settings, scalars, *numbers, **settings_of_rule)
