"""The optimizer step over flat buffers with torch ops."""

import torch
from torch import Tensor

from ..rows import Number, number, pieces
from ..scalars import FlatScalar
from .reference import advance, update
from .rule import Buffers, Rule


def flat_optimizer(buffers: Buffers, settings: Tensor, scalars: Tensor, rule: Rule) -> None:
    """One step, in place. Settings are rows of lr_scale, weight_decay, l2."""
    advance(scalars, rule)
    master, momentum, second_moment = buffers.master, buffers.momentum, buffers.second_moment
    values = [number(scalar, master.dtype) for scalar in scalars.unbind()]
    skip = values[FlatScalar.SKIP] != 0
    for piece in pieces(master.shape[0], settings, master.device, master.dtype):
        w = piece.of(master)
        moved = [w, *(piece.of(state) for state in (momentum, second_moment) if state is not None)]
        keep = piece.frozen | skip
        if keep is not True:
            # where it is not known on the host what is kept, everything moves and is then put back
            old = [buffer.clone() for buffer in moved] if isinstance(keep, Tensor) else []
            g = piece.of(buffers.grad).to(w.dtype) * values[FlatScalar.GRAD_FACTOR]
            _add(g, w, 2 * piece.l2 if rule.decoupled else 2 * piece.l2 + piece.weight_decay)
            u, factor = update(
                rule,
                g,
                None if momentum is None else piece.of(momentum),
                None if second_moment is None else piece.of(second_moment),
                step_size=values[FlatScalar.STEP_SIZE] * piece.lr_scale,
                grad_step=values[FlatScalar.GRAD_STEP] * piece.lr_scale,
                root_factor=values[FlatScalar.ROOT_FACTOR],
            )
            shrinkage = values[FlatScalar.LR] * piece.lr_scale * piece.weight_decay if rule.decoupled else 0.0
            if isinstance(shrinkage, Tensor) or shrinkage != 0:
                # with the update in one subtraction: shrinking the weights first would round them twice
                u, factor = u * factor, 1.0
                _add(u, w, shrinkage)
            _add(w, u, -factor)
            if isinstance(keep, Tensor):
                for buffer, before in zip(moved, old, strict=True):
                    torch.where(keep, before, buffer, out=buffer)
        if buffers.ema is not None:
            _average(piece.of(buffers.ema), w, values[FlatScalar.EMA_DECAY], skip)
        if buffers.copy is not None:
            piece.of(buffers.copy).copy_(w)


def _add(target: Tensor, tensor: Tensor, factor: Number) -> None:
    """``target ← target + factor · tensor``."""
    if isinstance(factor, Tensor):
        target.addcmul_(tensor, factor)
    elif factor != 0:
        target.add_(tensor, alpha=factor)


def _average(ema: Tensor, w: Tensor, decay: Number, skip: bool | Tensor) -> None:
    """``ema ← ema + (1 − decay)(w − ema)`` unless the step is skipped."""
    if isinstance(skip, Tensor):
        ema.lerp_(w, torch.where(skip, 0.0, 1 - decay).to(ema.dtype))
    elif not skip:
        ema.lerp_(w, 1 - decay)
