"""The optimizers' formulas in plain torch, on tensors of any shape: the truth, and what runs on a CPU."""

import torch
from torch import Tensor

from ..flat.scalars import FlatScalar

RULES = ("sgd", "adam", "nadam", "adamax", "rmsprop", "adagrad")


def advance(scalars: Tensor, rule: str, decay1: float, decay2: float, extra: float) -> None:
    """Count the step t and write its factors, without waiting for the device.

    ``step_size`` is ``lr`` (sgd, rmsprop), ``lr / (1 − β₁ᵗ)`` (adam, adamax), ``lr / (1 + (t − 1)·lr_decay)`` (adagrad),
    ``lr·μ_{t+1} / (1 − Π_{i≤t+1} μ_i)`` (nadam, whose ``grad_step`` is ``lr·(1 − μ_t) / (1 − Π_{i≤t} μ_i)``), with
    ``μ_t = β₁ (1 − ½·0.96^(t·momentum_decay))``; ``root_factor = 1/√(1 − β₂ᵗ)``. ``extra`` is momentum_decay or lr_decay.
    """
    lr, skip = scalars[FlatScalar.LR], scalars[FlatScalar.SKIP] != 0
    t = scalars[FlatScalar.STEP] + ~skip
    step_size, grad_step, root_factor = lr, torch.zeros_like(lr), torch.ones_like(lr)
    if rule in ("adam", "adamax"):
        step_size = lr / (1 - torch.pow(decay1, t))
    if rule in ("adam", "nadam"):
        root_factor = (1 - torch.pow(decay2, t)).rsqrt()
    if rule == "adagrad":
        step_size = lr / (1 + (t - 1) * extra)
    if rule == "nadam":
        mu = decay1 * (1 - 0.5 * torch.pow(0.96, t * extra))
        mu_next = decay1 * (1 - 0.5 * torch.pow(0.96, (t + 1) * extra))
        product = scalars[FlatScalar.MU_PRODUCT] * torch.where(skip, 1.0, mu)
        step_size = lr * mu_next / (1 - product * mu_next)
        grad_step = lr * (1 - mu) / (1 - product)
        scalars[FlatScalar.MU_PRODUCT] = product
    scalars[FlatScalar.STEP] = t
    scalars[FlatScalar.STEP_SIZE] = step_size
    scalars[FlatScalar.GRAD_STEP] = grad_step
    scalars[FlatScalar.ROOT_FACTOR] = root_factor
    scalars[FlatScalar.GRAD_FACTOR] = scalars[FlatScalar.GRAD_SCALE] * scalars[FlatScalar.CLIP]


def update(
    rule: str,
    g: Tensor,
    m: Tensor | None,
    v: Tensor | None,
    *,
    step_size: Tensor,
    grad_step: Tensor,
    root_factor: Tensor,
    decay1: float,
    decay2: float,
    eps: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What a step takes from the weights, δ, and the new m and v; from gradient g, momentum m and second moment v.

    * sgd: ``m ← β₁ m + g``, ``δ = s m``, with Nesterov ``s (g + β₁ m)``, without m ``s g``
    * adam: ``m ← m + (1 − β₁)(g − m)``, ``v ← β₂ v + (1 − β₂) g²``, ``δ = s m / (√v·root + eps)``
    * nadam: m and v as adam, ``δ = (grad_step g + s m) / (√v·root + eps)``
    * adamax: m as adam, ``v ← max(β₂ v, |g| + eps)``, ``δ = s m / v``
    * rmsprop: v as adam, ``u = g / (√v + eps)``, ``m ← β₁ m + u``, ``δ = s m``, without m ``s u``
    * adagrad: ``v ← v + g²``, ``δ = s g / (√v + eps)``
    """
    if rule == "sgd":
        direction = g
        if m is not None:
            m = m * decay1 + g
            direction = g + m * decay1 if nesterov else m
        return direction * step_size, m, None
    assert v is not None
    if rule == "adagrad":
        v = torch.addcmul(v, g, g)
        return g / v.sqrt().add_(eps) * step_size, None, v
    if rule == "adamax":
        assert m is not None
        m, v = torch.lerp(m, g, 1 - decay1), torch.maximum(v * decay2, g.abs().add_(eps))
        return m / v * step_size, m, v
    v = (v * decay2).addcmul_(g, g, value=1 - decay2)
    if rule == "rmsprop":
        direction = g / v.sqrt().add_(eps)
        if m is not None:
            m = direction = m * decay1 + direction
        return direction * step_size, m, v
    assert m is not None
    m = torch.lerp(m, g, 1 - decay1)
    denominator = v.sqrt().mul_(root_factor).add_(eps)
    numerator = m * step_size
    if rule == "nadam":
        numerator = numerator + g * grad_step
    return numerator / denominator, m, v
