"""Loss and gradient of the cross entropy in closed form with torch ops: the op's implementation without Triton."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy_fwd(
    logits: Tensor,
    labels: Tensor,
    labels_b: Tensor | None,
    lam: Tensor | None,
    weight: Tensor | None,
    label_smoothing: float,
    focal_gamma: float,
    reduction: str,
    ignore_index: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, ``∂loss_i/∂logits_i`` [N, C] and the weighted mean's divisor (``[]``; shape [0] where not needed).

    With ``a_c = t_c w_c`` and ``u_c = a_c (γ p_c (1 − p_c)^(γ−1) log p_c − (1 − p_c)^γ)``:
    ``loss_i = −Σ_c a_c (1 − p_c)^γ log p_c`` and ``∂loss_i/∂z_c = u_c − p_c Σ_k u_k``; ``a_c = 0`` where the label is
    ``ignore_index``.
    """
    x = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    log_p = F.log_softmax(x, dim=1)
    p = log_p.exp()
    target = targets(x, labels, labels_b, lam, ignore_index)
    a = target * (1 - label_smoothing) + label_smoothing / x.shape[1]
    if ignore_index is not None:
        a = a.masked_fill((labels == ignore_index)[:, None], 0.0)
    if weight is not None:
        a = a * weight
    if focal_gamma == 0:
        modulated, u = a, -a
    else:
        q = (1 - p).clamp_min(torch.finfo(x.dtype).tiny)
        power = q.pow(focal_gamma)
        modulated, u = a * power, a * (focal_gamma * p * log_p.clamp_min(-1e4) * (power / q) - power)
    # a class with target 0 adds nothing, even where its logit is −∞
    loss = -(modulated * torch.where(modulated == 0, 0.0, log_p)).sum(dim=1)
    grad = (u - p * u.sum(dim=1, keepdim=True)).to(logits.dtype).contiguous()
    divisor = loss.new_empty(0)
    if has_divisor(labels, weight, reduction, ignore_index):
        divisor = (target if weight is None else target * weight).sum(dtype=loss.dtype)
    if reduction != "none":
        loss = loss.sum()
    if reduction == "mean":
        loss = loss / (divisor if divisor.numel() else logits.shape[0])
    return loss, grad, divisor


def cross_entropy_bwd(grad_loss: Tensor, grad: Tensor, divisor: Tensor, reduction: str) -> Tensor:
    """Multiply each row of ``grad`` [N, C] by the incoming gradient ([N], or ``[]`` after a reduction)."""
    scale = grad_loss.unsqueeze(1) if reduction == "none" else grad_loss
    if reduction == "mean":
        scale = scale / (divisor if divisor.numel() else grad.shape[0])
    return (grad * scale).to(grad.dtype).contiguous()


def has_divisor(labels: Tensor, weight: Tensor | None, reduction: str, ignore_index: int | None) -> bool:
    """Whether the mean divides by the labels' total weight, which is not known before."""
    counts = weight is not None or ignore_index is not None
    return reduction == "mean" and counts and not labels.is_floating_point()


def targets(x: Tensor, labels: Tensor, labels_b: Tensor | None, lam: Tensor | None, ignore_index: int | None) -> Tensor:
    """Dense targets [N, C] before smoothing; zeros where the label is ``ignore_index``."""
    if labels.is_floating_point():
        return labels.to(x.dtype)
    if ignore_index is not None:
        ignored = labels == ignore_index
        return _one_hot(x, labels.masked_fill(ignored, 0)).masked_fill(ignored[:, None], 0.0)
    target = _one_hot(x, labels)
    if labels_b is None:
        return target
    assert lam is not None
    share = lam.to(x.dtype).unsqueeze(1)
    return share * target + (1 - share) * _one_hot(x, labels_b)


def _one_hot(x: Tensor, labels: Tensor) -> Tensor:
    """One-hot rows; a row of NaN where the label is not a class."""
    n_classes = x.shape[1]
    column = labels.unsqueeze(1)
    known = (column >= 0) & (column < n_classes)
    one_hot = torch.zeros_like(x, memory_format=torch.contiguous_format)
    one_hot.scatter_(1, column.clamp(0, n_classes - 1), 1.0)
    return torch.where(known, one_hot, torch.nan)
