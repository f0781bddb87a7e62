"""Cross entropy in plain torch: the truth that the kernels are tested against, and what runs on a CPU."""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .target import Target


def cross_entropy_reference(
    logits: Tensor, labels: Tensor, labels_b: Tensor | None = None, lam: Tensor | None = None, **settings: Any
) -> Tensor:
    """``loss_i = lam_i · CE(logits_i, labels_i) + (1 − lam_i) · CE(logits_i, labels_b_i)``, then the reduction.

    Arguments and result are those of ``cross_entropy``.
    """
    return reference_loss(logits, Target(labels, labels_b, lam, **settings))


def reference_loss(logits: Tensor, target: Target) -> Tensor:
    """The loss against a ``Target``. Half-precision logits are raised to fp32, fp64 stays fp64.

    Nothing is checked; labels must lie in [0, C) or be ``ignore_index``.
    """
    x = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    weight = None if target.weight is None else target.weight.to(x.dtype)
    if target.labels_b is None and target.focal_gamma == 0 and not target.is_soft:
        return _torch_loss(x, target.labels, weight, target, target.reduction)
    # pairs of labels and their share of each sample
    parts = [(target.labels, x.new_ones(()))]
    if target.labels_b is not None and target.lam is not None:
        parts = [(target.labels, target.lam), (target.labels_b, 1 - target.lam)]
    if target.is_soft or target.focal_gamma != 0:
        t = _sum(_target(x, labels, weight, target) * share.reshape(-1, 1) for labels, share in parts)
        loss = _loss_of_target(x, t, target.focal_gamma)
    else:
        # 0 where the share is, even of a loss that is infinite
        losses = [(_torch_loss(x, labels, weight, target, "none"), share) for labels, share in parts]
        loss = _sum(torch.where(share == 0, 0.0, share * part) for part, share in losses)
    if target.reduction != "mean":
        return loss.sum() if target.reduction == "sum" else loss
    divisor = _sum(share * _label_weights(x, labels, weight, target.ignore_index) for labels, share in parts)
    return loss.sum() / divisor.sum()


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def _torch_loss(x: Tensor, labels: Tensor, weight: Tensor | None, target: Target, reduction: str) -> Tensor:
    settings = {"ignore_index": target.ignore_index, "label_smoothing": target.label_smoothing}
    return F.cross_entropy(x, labels, weight, reduction=reduction, **settings)  # type: ignore[arg-type]


def _target(x: Tensor, labels: Tensor, weight: Tensor | None, target: Target) -> Tensor:
    """``t_c · w_c`` [N, C], t smoothed; 0 where the label is ignored."""
    n_classes = x.shape[1]
    if target.is_soft:
        t = labels.to(x.dtype)
        kept = torch.ones_like(t[:, 0], dtype=torch.bool)
    else:
        kept = labels != target.ignore_index
        t = F.one_hot(labels.where(kept, 0), n_classes).to(x.dtype)
    t = t * (1 - target.label_smoothing) + target.label_smoothing / n_classes
    return torch.where(kept[:, None], t if weight is None else t * weight, 0.0)


def _loss_of_target(x: Tensor, t: Tensor, gamma: float) -> Tensor:
    """``Σ_c t_c · (1 − p_c)^γ · (−log p_c)`` for each row."""
    log_p = F.log_softmax(x, dim=1)
    # a class with target 0 adds nothing, even where its logit is −∞
    loss = t * torch.where(t == 0, 0.0, -log_p)
    if gamma != 0:
        # where p rounds to 1 the power's derivative would be 0^(γ−1); the clamp stops it
        loss = loss * (1 - log_p.exp()).clamp_min(torch.finfo(x.dtype).tiny).pow(gamma)
    return loss.sum(dim=1)


def _label_weights(x: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What each row adds to the mean's divisor."""
    if labels.is_floating_point():
        return torch.ones_like(x[:, 0])
    kept = labels != ignore_index
    return kept.to(x.dtype) if weight is None else weight[labels.where(kept, 0)] * kept
