"""Exponential moving average of the weights."""

import copy

import torch
from torch import nn


class ExponentialMovingAverage:
    """ema ← decay·ema + (1 − decay)·w after every step, over parameters and floating-point buffers.

    Integer buffers (batch norm's ``num_batches_tracked``) are copied. ``module`` is a copy of the model, in eval mode,
    that holds the averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        ours, theirs = self.module.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
        pairs = [(a, theirs[name]) for name, a in ours.items()]
        self._averaged = [(a, b) for a, b in pairs if a.is_floating_point()]
        self._copied = [(a, b) for a, b in pairs if not a.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages one step towards the model's present weights."""
        averages, values = [list(column) for column in zip(*self._averaged, strict=True)]
        torch._foreach_lerp_(averages, values, 1 - self.decay)
        for ours, theirs in self._copied:
            ours.copy_(theirs)
