"""The optimizer step over flat buffers with torch ops."""

import torch
from torch import Tensor

from ..flat.rows import active_rows, column, pieces, rows
from ..flat.scalars import FlatScalar
from .reference import advance, update


def flat_optimizer(
    rule: str,
    master: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    second_moment: Tensor | None,
    settings: Tensor,
    scalars: Tensor,
    ema: Tensor | None,
    copy: Tensor | None,
    decay1: float,
    decay2: float,
    eps: float,
    extra: float,
    nesterov: bool,
    decoupled: bool,
) -> None:
    """One step, in place. Settings are rows of lr_scale, weight_decay, l2."""
    advance(scalars, rule, decay1, decay2, extra)
    values = scalars.to(master.dtype)
    skip = scalars[FlatScalar.SKIP] != 0
    ema_weight = torch.where(skip, 0.0, 1 - scalars[FlatScalar.EMA_DECAY]).to(master.dtype)
    for elements, blocks in pieces(master.shape[0]):
        w = rows(master, elements, blocks)
        old_states = [None if state is None else rows(state, elements, blocks) for state in (momentum, second_moment)]
        lr_scale, weight_decay, l2 = (column(settings, index, blocks, w) for index in range(3))
        g = rows(grad, elements, blocks).to(w.dtype) * values[FlatScalar.GRAD_FACTOR]
        g.addcmul_(w, 2 * l2 if decoupled else 2 * l2 + weight_decay)
        delta, *new_states = update(
            rule,
            g,
            *old_states,
            step_size=values[FlatScalar.STEP_SIZE] * lr_scale,
            grad_step=values[FlatScalar.GRAD_STEP] * lr_scale,
            root_factor=values[FlatScalar.ROOT_FACTOR],
            decay1=decay1,
            decay2=decay2,
            eps=eps,
            nesterov=nesterov,
        )
        if decoupled:
            # shrinking the weights first would round them twice
            delta.addcmul_(w, values[FlatScalar.LR] * lr_scale * weight_decay)
        active = active_rows(settings, blocks)
        assert active is not None
        active = active & ~skip
        for old, new in zip((w, *old_states), (w - delta, *new_states), strict=True):
            if old is not None and new is not None:
                torch.where(active, new, old, out=old)
        if ema is not None:
            rows(ema, elements, blocks).lerp_(w, ema_weight)
        if copy is not None:
            rows(copy, elements, blocks).copy_(w)
