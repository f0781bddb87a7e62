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
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, ``∂loss_i/∂logits_i`` [N, C] and the mean's divisor (``[]``; shape [0] where it is N, or none).

    With ``a_c = t_c w_c`` and ``u_c = a_c (γ p_c (1 − p_c)^(γ−1) log p_c − (1 − p_c)^γ)``:
    ``loss_i = −Σ_c a_c (1 − p_c)^γ log p_c`` and ``∂loss_i/∂z_c = u_c − p_c Σ_k u_k``.
    """
    x = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    log_p = F.log_softmax(x, dim=1)
    p = log_p.exp()
    target, share = targets(x, labels, labels_b, lam, ignore_index)
    a = target * (1 - label_smoothing) + share * (label_smoothing / x.shape[1])
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
    if has_divisor(labels, reduction):
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
        if divisor.numel():  # where no label counts, the gradients are 0 and the mean is NaN
            scale = torch.where(divisor == 0, 0.0, scale)
    return (grad * scale).to(grad.dtype).contiguous()


def has_divisor(labels: Tensor, reduction: str) -> bool:
    """Whether the mean divides by the labels' total weight, which is not known before."""
    return reduction == "mean" and not labels.is_floating_point()


def targets(
    x: Tensor, labels: Tensor, labels_b: Tensor | None, lam: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Dense targets [N, C] before smoothing, without labels that are ``ignore_index``; and the others' share [N, 1]."""
    if labels.is_floating_point():
        return labels.to(x.dtype), torch.ones_like(x[:, :1])
    target, share = _one_hot(x, labels, ignore_index)
    if labels_b is None:
        return target, share
    assert lam is not None
    lam = lam.to(x.dtype).unsqueeze(1)
    second, second_share = _one_hot(x, labels_b, ignore_index)
    return lam * target + (1 - lam) * second, lam * share + (1 - lam) * second_share


def _one_hot(x: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """One-hot rows and 1 [N, 1]; both 0 where the label is ignored, a row of NaN where it is not a class."""
    n_classes = x.shape[1]
    column = labels.unsqueeze(1)
    known = (column >= 0) & (column < n_classes)
    one_hot = torch.zeros_like(x, memory_format=torch.contiguous_format)
    one_hot.scatter_(1, column.clamp(0, n_classes - 1), 1.0)
    kept = column != ignore_index
    return torch.where(kept, torch.where(known, one_hot, torch.nan), 0.0), kept.to(x.dtype)
