"""Exponential moving average of the weights and of batch norm's statistics."""

import torch
from torch import Tensor, nn

from cifarfast.kernels import flat_ema

from .flat import FlatParameters, FlatStatistics


def ema_decay_at(step: int, decay: float, *, warmup: bool) -> float:
    """Decay of step ``step`` (0 is the first): ``decay``, with ``warmup`` at most (1 + step) / (10 + step)."""
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


class ExponentialMovingAverage:
    """ema ← decay·ema + (1 − decay)·w after every step, over parameters and fp32 buffers.

    The weights' average, ``weights``, is moved by ``FlatOptimizer.step``, the buffers' by ``update``. Counts (batch
    norm's ``num_batches_tracked``) are copied.

    Args:
        module: a copy of the model, taken before its parameters were made flat; it will hold the averages, in eval
            mode.
        flat: the model's parameters.
        statistics: the model's buffers.

    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """

    def __init__(self, module: nn.Module, flat: FlatParameters, statistics: FlatStatistics) -> None:
        self.module = module.eval().requires_grad_(False)
        self.weights = torch.zeros_like(flat.master)
        flat.rehome(self.module, self.weights)
        self.statistics, self._followed = FlatStatistics(self.module), statistics

    @torch.no_grad()
    def update(self, scalars: Tensor) -> None:
        """Move the buffers' averages one step, with the decay in ``scalars``."""
        if len(self.statistics.values):
            flat_ema(self.statistics.values, self._followed.values, scalars)
        if len(self.statistics.counts):
            self.statistics.counts.copy_(self._followed.counts)
        for ours, theirs in zip(self.statistics.others, self._followed.others, strict=True):
            ours.copy_(theirs)
