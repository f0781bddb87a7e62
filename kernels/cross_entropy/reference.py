"""Cross entropy in plain torch: the truth that the kernels are tested against, and what runs on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy_reference(
    logits: Tensor,
    labels: Tensor,
    labels_b: Tensor | None = None,
    lam: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """``loss_i = lam_i · CE(logits_i, labels_i) + (1 − lam_i) · CE(logits_i, labels_b_i)``, then the reduction.

    Arguments and result are those of ``cross_entropy``. Half-precision logits are raised to fp32, fp64 stays fp64.
    Nothing is checked; labels must lie in [0, C) or be ``ignore_index``.
    """
    assert (labels_b is None) == (lam is None)
    x = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    if weight is not None:
        weight = weight.to(x.dtype)
    if labels.is_floating_point():
        labels = labels.to(x.dtype)
    if labels_b is None and focal_gamma == 0:
        return F.cross_entropy(
            x, labels, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    settings = (weight, label_smoothing, focal_gamma, ignore_index)
    loss = _per_sample(x, labels, *settings)
    if labels_b is not None and lam is not None:
        loss = lam * loss + (1 - lam) * _per_sample(x, labels_b, *settings)
    if reduction != "mean":
        return loss.sum() if reduction == "sum" else loss
    divisor = _label_weights(x, labels, weight, ignore_index)
    if labels_b is not None and lam is not None:
        divisor = lam * divisor + (1 - lam) * _label_weights(x, labels_b, weight, ignore_index)
    return loss.sum() / divisor.sum()


def _per_sample(
    x: Tensor, labels: Tensor, weight: Tensor | None, label_smoothing: float, focal_gamma: float, ignore_index: int
) -> Tensor:
    """``Σ_c t_c · w_c · (1 − p_c)^γ · (−log p_c)`` for each row, t smoothed; 0 where the label is ignored."""
    soft = labels.is_floating_point()
    if focal_gamma == 0:
        return F.cross_entropy(
            x, labels, weight, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
        )
    n_classes = x.shape[1]
    target = labels if soft else F.one_hot(labels.where(labels != ignore_index, 0), n_classes).to(x.dtype)
    target = target * (1 - label_smoothing) + label_smoothing / n_classes
    if weight is not None:
        target = target * weight
    log_p = F.log_softmax(x, dim=1)
    # where p rounds to 1 the power's derivative would be 0^(γ−1); the clamp stops it
    q = (1 - log_p.exp()).clamp_min(torch.finfo(x.dtype).tiny)
    loss = -(target * q.pow(focal_gamma) * log_p).sum(dim=1)
    return loss if soft else loss.where(labels != ignore_index, 0.0)


def _label_weights(x: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What each row adds to the mean's divisor."""
    if labels.is_floating_point():
        return torch.ones_like(x[:, 0])
    kept = labels != ignore_index
    return kept.to(x.dtype) if weight is None else weight[labels.where(kept, 0)] * kept
