"""How far the cross entropy may be off in fp32: first-order error analysis, for judging it where terms cancel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..testing.spec import Inputs
from .target import Target
from .torch_impl import dense_target


def target_of(inputs: Inputs) -> Target:
    """Keyword arguments of ``cross_entropy`` but the logits."""
    return Target(**{name: value for name, value in inputs.items() if name != "logits"})


def error_bounds(inputs: Inputs, cotangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Of the loss and of the logits' gradient, in units of eps.

    With z the logits less their maximum and ``S = Σ exp(z)``, ``log p = z − log S`` is off by ``κ = |z| + log S + 1``,
    and p by κ relatively. The loss is ``Σ a (−log p) q^γ`` and its gradient ``u − p Σ u`` with
    ``u = a (γ p q^(γ−1) log p − q^γ)``; a is exact to a rounding. ``q = 1 − p`` is a sum over the other classes.
    """
    logits, target = inputs["logits"].detach(), target_of(inputs)
    weight, gamma, epsilon = target.weight, target.focal_gamma, target.label_smoothing
    n, n_classes = logits.shape
    dense, share = dense_target(logits, target)
    a = dense * (1 - epsilon) + share * (epsilon / n_classes)
    a = a if weight is None else a * weight

    z = logits - logits.amax(dim=1, keepdim=True)
    log_sum = z.exp().sum(dim=1, keepdim=True).log()
    log_p = z - log_sum
    p, kappa = log_p.exp(), z.abs() + log_sum + 1
    if gamma == 0:
        loss, u, u_scale = a * -log_p, -a, a
        loss_scale = a * kappa
    else:
        positive = p < 1
        q = torch.where(positive, 1 - p, 1.0)
        others = ((p * kappa).sum(dim=1, keepdim=True) - p * kappa) / q
        q_error = torch.maximum(others, p * kappa / q) + 1
        power = torch.where(positive, q**gamma, 0.0)
        power_error = gamma * (q_error - q.log()) + 1
        loss, loss_scale = a * power * -log_p, a * power * (kappa + power_error * log_p.abs())
        u = a * (gamma * p * power / q * log_p - power)
        first = gamma * p * power / q * (log_p.abs() * (kappa + power_error + q_error) + kappa)
        u_scale = a * (first + power * power_error)
    gradient = u_scale + p * (u_scale.sum(dim=1, keepdim=True) + kappa * u.sum(dim=1, keepdim=True).abs())

    (cotangent,) = cotangents
    if target.reduction == "none":
        return [loss_scale.sum(dim=1)], [cotangent.abs()[:, None] * gradient]
    divisor = torch.ones((), dtype=p.dtype, device=p.device)
    if target.has_divisor:
        divisor = (dense if weight is None else dense * weight).sum()
    elif target.reduction == "mean":
        divisor = divisor * n
    return [(loss + loss_scale).sum() / divisor], [cotangent.abs() * gradient / divisor]
