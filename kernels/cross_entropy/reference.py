"""Cross entropy in plain torch: the truth that the kernels are tested against, and what runs on a CPU."""

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
    labels, labels_b, lam = target.labels, target.labels_b, target.lam
    weight = None if target.weight is None else target.weight.to(x.dtype)
    if target.is_soft:
        labels = labels.to(x.dtype)
    if labels_b is None and target.focal_gamma == 0:
        return _torch_loss(x, labels, weight, target, target.reduction)
    loss = _per_sample(x, labels, weight, target)
    if labels_b is not None and lam is not None:
        loss = lam * loss + (1 - lam) * _per_sample(x, labels_b, weight, target)
    if target.reduction != "mean":
        return loss.sum() if target.reduction == "sum" else loss
    divisor = _label_weights(x, labels, weight, target.ignore_index)
    if labels_b is not None and lam is not None:
        divisor = lam * divisor + (1 - lam) * _label_weights(x, labels_b, weight, target.ignore_index)
    return loss.sum() / divisor.sum()


def _torch_loss(x: Tensor, labels: Tensor, weight: Tensor | None, target: Target, reduction: str) -> Tensor:
    settings = {"ignore_index": target.ignore_index, "label_smoothing": target.label_smoothing}
    return F.cross_entropy(x, labels, weight, reduction=reduction, **settings)  # type: ignore[arg-type]


def _per_sample(x: Tensor, labels: Tensor, weight: Tensor | None, target: Target) -> Tensor:
    """``Σ_c t_c · w_c · (1 − p_c)^γ · (−log p_c)`` for each row, t smoothed; 0 where the label is ignored."""
    if target.focal_gamma == 0:
        return _torch_loss(x, labels, weight, target, "none")
    n_classes, kept = x.shape[1], labels != target.ignore_index
    t = labels if target.is_soft else F.one_hot(labels.where(kept, 0), n_classes).to(x.dtype)
    t = t * (1 - target.label_smoothing) + target.label_smoothing / n_classes
    if weight is not None:
        t = t * weight
    log_p = F.log_softmax(x, dim=1)
    # where p rounds to 1 the power's derivative would be 0^(γ−1); the clamp stops it
    q = (1 - log_p.exp()).clamp_min(torch.finfo(x.dtype).tiny)
    loss = -(t * q.pow(target.focal_gamma) * log_p).sum(dim=1)
    return loss if target.is_soft else loss.where(kept, 0.0)


def _label_weights(x: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What each row adds to the mean's divisor."""
    if labels.is_floating_point():
        return torch.ones_like(x[:, 0])
    kept = labels != ignore_index
    return kept.to(x.dtype) if weight is None else weight[labels.where(kept, 0)] * kept
