"""Triton kernels of the cross entropy and the functions that launch them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..last_block import is_last_block, take_counters
from ..tuning.tables import tile
from .target import Target

FINISH_BLOCK = tl.constexpr(2048)


@triton.jit
def _one_hot(labels_ptr, rows, stride, row_ok, n_classes, cols, ignore_index):
    """One-hot rows [BLOCK_N, BLOCK_C] and 1 [BLOCK_N, 1]; both 0 where the label is ignored, a row of NaN where it is
    not a class.
    """
    labels = tl.load(labels_ptr + rows * stride, mask=row_ok, other=0)
    known = (labels >= 0) & (labels < n_classes)
    one_hot = tl.where(known[:, None], tl.where(cols[None, :] == labels[:, None], 1.0, 0.0), float("nan"))
    kept = (labels != ignore_index)[:, None]
    return tl.where(kept, one_hot, 0.0), tl.where(kept, 1.0, 0.0)


@triton.jit
def _focal(a, p, log_p, exp_z, sum_exp, gamma):
    """``a q^γ`` and ``u = a (γ p q^(γ−1) log p − q^γ)`` with ``q = 1 − p``."""
    # 1 − p loses its digits where p is near 1, but then the other classes' sum has them
    likely = p > 0.5
    others = tl.sum(tl.where(likely, 0.0, exp_z), axis=1)
    q = tl.where(likely, (others / sum_exp)[:, None], 1.0 - p)
    # where q is 0 both terms go to 0, for γ < 1 too
    positive = q > 0
    q = tl.where(positive, q, 1.0)
    power = tl.where(positive, tl.exp2(gamma * tl.log2(q)), 0.0)
    p_log_p = p * tl.where(p > 0, log_p, 0.0)
    return a * power, a * (gamma * p_log_p * (power / q) - power)


@triton.jit
def _finish(
    loss_ptr,  # [N] fp32
    label_weight_ptr,  # [N] fp32 if WEIGHTED
    out_ptr,  # [] fp32
    divisor_ptr,  # [] fp32 if WEIGHTED
    counter_ptr,
    n_rows,
    MEAN: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """``out = Σ_i loss_i``, over ``N`` or over ``divisor = Σ_i label_weight_i``, by the last program."""
    if is_last_block(counter_ptr, tl.num_programs(0)):
        index = tl.arange(0, FINISH_BLOCK)
        total = tl.zeros([FINISH_BLOCK], tl.float32)
        weights = tl.zeros([FINISH_BLOCK], tl.float32)
        # not `for … in range(…)`: the interpreter of triton 3.6 cannot count to a runtime bound with numpy 2.4
        start = 0
        while start < n_rows:
            ok = start + index < n_rows
            total += tl.load(loss_ptr + start + index, mask=ok, other=0.0, cache_modifier=".cg")
            if WEIGHTED:
                weights += tl.load(label_weight_ptr + start + index, mask=ok, other=0.0, cache_modifier=".cg")
            start += FINISH_BLOCK
        out = tl.sum(total, axis=0)
        if WEIGHTED:
            divisor = tl.sum(weights, axis=0)
            tl.store(divisor_ptr, divisor)
            out = out / divisor
        elif MEAN:
            out = out / n_rows
        tl.store(out_ptr, out)


@triton.jit(do_not_specialize=["ignore_index", "first_counter"])
def cross_entropy_fwd_kernel(
    logits_ptr,  # [N, C], rows logits_stride apart
    labels_ptr,  # [N] labels_stride apart; if IS_SOFT [N, C] with rows labels_stride apart
    labels_b_ptr,  # [N] if IS_MIXED
    lam_ptr,  # [N] if IS_MIXED
    weight_ptr,  # [C] if HAS_WEIGHT
    loss_ptr,  # [N] fp32
    grad_ptr,  # [N, C] contiguous
    label_weight_ptr,  # [N] fp32 if HAS_LABEL_WEIGHT
    out_ptr,  # [] fp32 if REDUCES
    divisor_ptr,  # [] fp32 if HAS_LABEL_WEIGHT
    counters_ptr,  # if REDUCES
    n_rows,
    n_classes,
    logits_stride,
    labels_stride,
    first_counter,
    label_smoothing,
    focal_gamma,
    ignore_index,
    IS_MIXED: tl.constexpr,
    IS_SOFT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_LABEL_WEIGHT: tl.constexpr,
    HAS_FOCAL: tl.constexpr,
    REDUCES: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``a_c = w_c ((1 − ε) t_c + ε s / C)``, ``q_c = 1 − p_c``, ``p = softmax(z)``;
    ``loss = −Σ_c a_c q_c^γ log p_c``; with ``u_c = a_c (γ p_c q_c^(γ−1) log p_c − q_c^γ)``
    ``∂loss/∂z_c = u_c − p_c Σ_k u_k``. s is the share of the labels that are not ignore_index: 1, 0, or if IS_MIXED
    between; t has no others. If REDUCES ``out`` is the losses' sum or mean.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.arange(0, BLOCK_C)
    row_ok = rows < n_rows
    col_ok = (cols < n_classes)[None, :]
    ok = row_ok[:, None] & col_ok  # [BLOCK_N, BLOCK_C]

    z = tl.load(logits_ptr + rows[:, None] * logits_stride + cols[None, :], mask=ok, other=0.0).to(tl.float32)
    z = tl.where(col_ok, z, float("-inf"))
    z = z - tl.max(z, axis=1)[:, None]
    exp_z = tl.exp(z)
    sum_exp = tl.sum(exp_z, axis=1)
    p = exp_z / sum_exp[:, None]
    log_p = z - tl.log(sum_exp)[:, None]

    if IS_SOFT:
        target = tl.load(labels_ptr + rows[:, None] * labels_stride + cols[None, :], mask=ok, other=0.0).to(tl.float32)
        a = target * (1.0 - label_smoothing) + label_smoothing / n_classes
    else:
        target, share = _one_hot(labels_ptr, rows, labels_stride, row_ok, n_classes, cols, ignore_index)
        if IS_MIXED:
            lam = tl.load(lam_ptr + rows, mask=row_ok, other=0.0)[:, None]
            second, second_share = _one_hot(labels_b_ptr, rows, 1, row_ok, n_classes, cols, ignore_index)
            target = lam * target + (1.0 - lam) * second
            share = lam * share + (1.0 - lam) * second_share
        a = target * (1.0 - label_smoothing) + share * (label_smoothing / n_classes)
    if HAS_WEIGHT:
        w = tl.load(weight_ptr + cols, mask=cols < n_classes, other=0.0).to(tl.float32)[None, :]
        a = a * w
        target = target * w
    if HAS_LABEL_WEIGHT:
        tl.store(label_weight_ptr + rows, tl.sum(tl.where(col_ok, target, 0.0), axis=1), mask=row_ok)
    a = tl.where(col_ok, a, 0.0)

    if HAS_FOCAL:
        modulated, u = _focal(a, p, log_p, exp_z, sum_exp, focal_gamma)
    else:
        modulated, u = a, -a
    # a class with target 0 adds nothing, even where its logit is −∞
    loss = -tl.sum(modulated * tl.where(modulated == 0, 0.0, log_p), axis=1)
    grad = u - p * tl.sum(u, axis=1)[:, None]
    tl.store(grad_ptr + rows[:, None] * n_classes + cols[None, :], grad.to(grad_ptr.dtype.element_ty), mask=ok)
    tl.store(loss_ptr + rows, loss, mask=row_ok)
    if REDUCES:
        counter_ptr = counters_ptr + first_counter
        _finish(loss_ptr, label_weight_ptr, out_ptr, divisor_ptr, counter_ptr, n_rows, MEAN, HAS_LABEL_WEIGHT)


@triton.jit
def cross_entropy_bwd_kernel(
    grad_loss_ptr,  # [N], or [] with a stride of 0
    grad_ptr,  # [N, C] contiguous
    divisor_ptr,  # [] fp32 if HAS_DIVISOR
    out_ptr,  # [N, C] contiguous
    n_rows,
    n_classes,
    grad_loss_stride,
    MEAN: tl.constexpr,
    HAS_DIVISOR: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``out_ic = grad_loss_i · grad_ic / divisor``; the divisor is 1, N (MEAN) or the one stored by the forward."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.arange(0, BLOCK_C)
    row_ok = rows < n_rows
    ok = row_ok[:, None] & (cols < n_classes)[None, :]
    scale = tl.load(grad_loss_ptr + rows * grad_loss_stride, mask=row_ok, other=0.0)
    if HAS_DIVISOR:
        # where no label counts, the gradients are 0 and the mean is NaN
        divisor = tl.load(divisor_ptr)
        scale = tl.where(divisor == 0, 0.0, scale / divisor)
    elif MEAN:
        scale = scale / n_rows
    offsets = rows[:, None] * n_classes + cols[None, :]
    grad = tl.load(grad_ptr + offsets, mask=ok, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets, (grad * scale[:, None]).to(out_ptr.dtype.element_ty), mask=ok)


def cross_entropy(logits: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, ``∂loss_i/∂logits_i`` [N, C] and the weighted mean's divisor (``[]``; [0] where not needed)."""
    target.check_labels(logits)
    n_rows, n_classes = logits.shape
    labels, labels_b, lam, weight = target.labels, target.labels_b, target.lam, target.weight
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    if target.is_soft:
        labels = labels if labels.stride(1) == 1 else labels.contiguous()
    weighted = target.has_divisor
    losses = logits.new_empty(n_rows, dtype=torch.float32)
    grad = logits.new_empty(n_rows, n_classes)
    label_weights = torch.empty_like(losses) if weighted else None
    divisor = losses.new_empty(() if weighted else (0,))
    reduces = target.reduction != "none"
    loss = losses.new_empty(()) if reduces else losses
    counters, first_counter = take_counters(1, logits.device) if reduces else (None, 0)
    tiles = tile("cross_entropy", n_classes, logits.device)
    with torch.cuda.device_of(logits):
        cross_entropy_fwd_kernel[(triton.cdiv(n_rows, tiles["rows"]),)](
            logits,
            labels,
            labels_b if labels_b is None else labels_b.contiguous(),
            lam if lam is None else lam.contiguous(),
            weight if weight is None else weight.contiguous(),
            losses,
            grad,
            label_weights,
            loss if reduces else None,
            divisor if weighted else None,
            counters,
            n_rows,
            n_classes,
            logits.stride(0),
            labels.stride(0),
            first_counter,
            target.label_smoothing,
            target.focal_gamma,
            target.ignore_index,
            IS_MIXED=labels_b is not None,
            IS_SOFT=target.is_soft,
            HAS_WEIGHT=weight is not None,
            HAS_LABEL_WEIGHT=weighted,
            HAS_FOCAL=target.focal_gamma != 0,
            REDUCES=reduces,
            MEAN=target.reduction == "mean",
            BLOCK_N=tiles["rows"],
            BLOCK_C=triton.next_power_of_2(n_classes),
            num_warps=tiles["num_warps"],
        )
    return loss, grad, divisor


def cross_entropy_backward(
    grad_logits: Tensor, grad_loss: Tensor, divisor: Tensor, logits: Tensor, reduction: str
) -> Tensor:
    """Multiply each row of ``grad_logits`` [N, C] by the incoming gradient ([N], or ``[]`` after a reduction)."""
    n_rows, n_classes = grad_logits.shape
    grad = grad_logits.contiguous()
    tiles = tile("cross_entropy", n_classes, grad.device)
    out = torch.empty_like(grad)
    with torch.cuda.device_of(grad):
        cross_entropy_bwd_kernel[(triton.cdiv(n_rows, tiles["rows"]),)](
            grad_loss,
            grad,
            divisor if divisor.numel() else None,
            out,
            n_rows,
            n_classes,
            grad_loss.stride(0) if reduction == "none" else 0,
            MEAN=reduction == "mean",
            HAS_DIVISOR=divisor.numel() > 0,
            BLOCK_N=tiles["rows"],
            BLOCK_C=triton.next_power_of_2(n_classes),
            num_warps=tiles["num_warps"],
        )
    return out
