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
    ignore_index: int | None = None,
) -> Tensor:
    """``loss_i = lam_i · CE(logits_i, labels_i) + (1 − lam_i) · CE(logits_i, labels_b_i)``, then the reduction.

    Arguments and result are those of ``cross_entropy``. Half-precision logits are raised to fp32, fp64 stays fp64.
    Nothing is checked; labels must lie in [0, C).
    """
    assert (labels_b is None) == (lam is None)
    x = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    if weight is not None:
        weight = weight.to(x.dtype)
    if labels.is_floating_point():
        labels = labels.to(x.dtype)
    if labels_b is None and focal_gamma == 0:
        ignored = -100 if ignore_index is None else ignore_index
        return F.cross_entropy(
            x, labels, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
        )
    kept = None if ignore_index is None else labels != ignore_index
    if kept is not None:
        labels = torch.where(kept, labels, 0)
    loss = _per_sample(x, labels, weight, label_smoothing, focal_gamma)
    if kept is not None:
        loss = torch.where(kept, loss, 0.0)
    if labels_b is not None and lam is not None:
        loss = lam * loss + (1 - lam) * _per_sample(x, labels_b, weight, label_smoothing, focal_gamma)
    if reduction == "none":
        return loss
    if reduction == "sum" or (weight is None and kept is None) or labels.is_floating_point():
        return loss.sum() if reduction == "sum" else loss.mean()
    divisor = torch.ones_like(loss) if weight is None else weight[labels]
    if weight is not None and labels_b is not None and lam is not None:
        divisor = lam * divisor + (1 - lam) * weight[labels_b]
    return loss.sum() / (divisor if kept is None else divisor * kept).sum()


def _per_sample(x: Tensor, labels: Tensor, weight: Tensor | None, label_smoothing: float, focal_gamma: float) -> Tensor:
    """``Σ_c t_c · w_c · (1 − p_c)^γ · (−log p_c)`` for each row, t smoothed."""
    if focal_gamma == 0:
        return F.cross_entropy(x, labels, weight, reduction="none", label_smoothing=label_smoothing)
    n_classes = x.shape[1]
    target = labels if labels.is_floating_point() else F.one_hot(labels, n_classes).to(x.dtype)
    target = target * (1 - label_smoothing) + label_smoothing / n_classes
    if weight is not None:
        target = target * weight
    log_p = F.log_softmax(x, dim=1)
    # where p rounds to 1 the power's derivative would be 0^(γ−1); the clamp stops it
    q = (1 - log_p.exp()).clamp_min(torch.finfo(x.dtype).tiny)
    return -(target * q.pow(focal_gamma) * log_p).sum(dim=1)
