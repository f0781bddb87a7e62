"""The optimizers' formulas in plain torch, on tensors of any shape: the truth, and what runs on a CPU."""

import torch
from torch import Tensor

from ..rows import Number
from ..scalars import FlatScalar
from .rule import Rule


def advance(scalars: Tensor, rule: Rule) -> None:
    """Count the step t and write its factors, without waiting for the device.

    * ``step_size``: ``lr`` (sgd, rmsprop), ``lr / (1 − β₁ᵗ)`` (adam, adamax), ``lr / (1 + (t − 1)·lr_decay)``
      (adagrad), ``lr·μ_{t+1} / (1 − Π_{i≤t+1} μ_i)`` (nadam), where ``μ_t = β₁ (1 − ½·0.96^(t·momentum_decay))``
    * ``grad_step``: ``lr·(1 − μ_t) / (1 − Π_{i≤t} μ_i)`` (nadam)
    * ``root_factor``: ``1/√(1 − β₂ᵗ)``
    """
    lr, skip = scalars[FlatScalar.LR], scalars[FlatScalar.SKIP] != 0
    t = scalars[FlatScalar.STEP] + ~skip
    step_size, grad_step, root_factor = lr, torch.zeros_like(lr), torch.ones_like(lr)
    if rule.name in ("adam", "adamax"):
        step_size = lr / (1 - torch.pow(rule.decay1, t))
    if rule.name in ("adam", "nadam"):
        root_factor = (1 - torch.pow(rule.decay2, t)).rsqrt()
    if rule.name == "adagrad":
        step_size = lr / (1 + (t - 1) * rule.extra)
    if rule.name == "nadam":
        mu = rule.decay1 * (1 - 0.5 * torch.pow(0.96, t * rule.extra))
        mu_next = rule.decay1 * (1 - 0.5 * torch.pow(0.96, (t + 1) * rule.extra))
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
    rule: Rule,
    g: Tensor,
    m: Tensor | None,
    v: Tensor | None,
    *,
    step_size: Number,
    grad_step: Number,
    root_factor: Number,
) -> tuple[Tensor, Number]:
    """Move momentum m and second moment v in place; return u and f: the step takes δ = f·u from the weights.

    * sgd: ``m ← β₁ m + g``, ``δ = s m``, with Nesterov ``s (g + β₁ m)``, without m ``s g``
    * adam: ``m ← m + (1 − β₁)(g − m)``, ``v ← β₂ v + (1 − β₂) g²``, ``δ = s m / (√v·root + eps)``
    * nadam: m and v as adam, ``δ = (grad_step g + s m) / (√v·root + eps)``
    * adamax: m as adam, ``v ← max(β₂ v, |g| + eps)``, ``δ = s m / v``
    * rmsprop: v as adam, ``u = g / (√v + eps)``, ``m ← β₁ m + u``, ``δ = s m``, without m ``s u``
    * adagrad: ``v ← v + g²``, ``δ = s g / (√v + eps)``

    s is ``step_size``. The gradient is overwritten.
    """
    if rule.name == "sgd":
        if m is None:
            return g, step_size
        m.mul_(rule.decay1).add_(g)
        return (g.add_(m, alpha=rule.decay1) if rule.nesterov else m), step_size
    assert v is not None
    if rule.name == "adagrad":
        v.addcmul_(g, g)
        return g.div_(v.sqrt().add_(rule.eps)), step_size
    if rule.name == "adamax":
        assert m is not None
        m.lerp_(g, 1 - rule.decay1)
        torch.maximum(v.mul_(rule.decay2), g.abs_().add_(rule.eps), out=v)
        return m / v, step_size
    v.mul_(rule.decay2).addcmul_(g, g, value=1 - rule.decay2)
    if rule.name == "rmsprop":
        g.div_(v.sqrt().add_(rule.eps))
        return (g if m is None else m.mul_(rule.decay1).add_(g)), step_size
    assert m is not None
    m.lerp_(g, 1 - rule.decay1)
    denominator = v.sqrt().mul_(root_factor).add_(rule.eps)
    if rule.name == "nadam":
        return g.mul_(grad_step).add_(m * step_size).div_(denominator), 1.0
    return m / denominator, step_size
