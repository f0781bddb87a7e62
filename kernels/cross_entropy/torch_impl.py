"""Loss and gradient of the cross entropy in closed form with torch ops: the op's implementation without Triton."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .target import Target


def cross_entropy(logits: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, ``∂loss_i/∂logits_i`` [N, C] and the mean's divisor (``[]``; shape [0] where it is N, or none).

    With ``a_c = t_c w_c`` and ``u_c = a_c (γ p_c (1 − p_c)^(γ−1) log p_c − (1 − p_c)^γ)``:
    ``loss_i = −Σ_c a_c (1 − p_c)^γ log p_c`` and ``∂loss_i/∂z_c = u_c − p_c Σ_k u_k``.
    """
    target.check_labels(logits)
    weight, gamma = target.weight, target.focal_gamma
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_p = F.log_softmax(x, dim=1)
    p = log_p.exp()
    dense, share = dense_target(x, target)
    a = dense * (1 - target.label_smoothing) + share * (target.label_smoothing / x.shape[1])
    if weight is not None:
        a = a * weight
    if gamma == 0:
        modulated, u = a, -a
    else:
        q = (1 - p).clamp_min(torch.finfo(x.dtype).tiny)
        power = q.pow(gamma)
        modulated, u = a * power, a * (gamma * p * log_p.clamp_min(-1e4) * (power / q) - power)
    # a class with target 0 adds nothing, even where its logit is −∞
    loss = -(modulated * torch.where(modulated == 0, 0.0, log_p)).sum(dim=1)
    grad = (u - p * u.sum(dim=1, keepdim=True)).to(logits.dtype).contiguous()
    divisor = loss.new_empty(0)
    if target.has_divisor:
        divisor = (dense if weight is None else dense * weight).sum(dtype=loss.dtype)
    if target.reduction != "none":
        loss = loss.sum()
    if target.reduction == "mean":
        loss = loss / (divisor if divisor.numel() else logits.shape[0])
    return loss, grad, divisor


def cross_entropy_backward(
    grad_logits: Tensor, grad_loss: Tensor, divisor: Tensor, logits: Tensor, reduction: str
) -> Tensor:
    """Multiply each row of ``grad_logits`` [N, C] by the incoming gradient ([N], or ``[]`` after a reduction)."""
    scale = grad_loss.unsqueeze(1) if reduction == "none" else grad_loss
    if reduction == "mean":
        scale = scale / (divisor if divisor.numel() else grad_logits.shape[0])
        if divisor.numel():  # where no label counts, the gradients are 0 and the mean is NaN
            scale = torch.where(divisor == 0, 0.0, scale)
    return (grad_logits * scale).to(grad_logits.dtype).contiguous()


def dense_target(x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Dense targets [N, C] before smoothing, without labels that are ``ignore_index``; and the others' share [N, 1]."""
    if target.is_soft:
        return target.labels.to(x.dtype), torch.ones_like(x[:, :1])
    first, share = _one_hot(x, target.labels, target.ignore_index)
    if target.labels_b is None:
        return first, share
    assert target.lam is not None
    lam = target.lam.to(x.dtype).unsqueeze(1)
    second, second_share = _one_hot(x, target.labels_b, target.ignore_index)
    return lam * first + (1 - lam) * second, lam * share + (1 - lam) * second_share


def _one_hot(x: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """One-hot rows and 1 [N, 1]; both 0 where the label is ignored, a row of NaN where it is not a class."""
    n_classes = x.shape[1]
    column = labels.unsqueeze(1)
    known = (column >= 0) & (column < n_classes)
    one_hot = torch.zeros_like(x, memory_format=torch.contiguous_format)
    one_hot.scatter_(1, column.clamp(0, n_classes - 1), 1.0)
    kept = column != ignore_index
    return torch.where(kept, torch.where(known, one_hot, torch.nan), 0.0), kept.to(x.dtype)
