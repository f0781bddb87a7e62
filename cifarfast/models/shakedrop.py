"""ShakeDrop (Yamada, Iwamura, Akiba, Kise: ShakeDrop regularization for deep residual learning, 2018)."""

from typing import Any

import torch
from torch import Tensor, nn


class _ScaleBothWays(torch.autograd.Function):
    """``y = x · forward_scale`` whose gradient is ``dy · backward_scale``, a scale of its own."""

    @staticmethod
    def forward(x: Tensor, forward_scale: Tensor, backward_scale: Tensor) -> Tensor:
        return x * forward_scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (backward_scale,) = ctx.saved_tensors
        return grad * backward_scale, None, None


class ShakeDrop(nn.Module):
    """Scales a residual branch at random, one draw a sample.

    In training, with b ~ Bernoulli(p), α ~ U[−1, 1], β ~ U[0, 1]::

        forward   y  = (b + α − b·α) · x
        backward  dx = (b + β − b·β) · dy

    In evaluation ``y = p · x``, the expectation. Nothing is read back to the host.

    Args:
        survival: p, the probability that the branch passes unchanged.
    """

    def __init__(self, survival: float) -> None:
        super().__init__()
        self.survival = survival

    def extra_repr(self) -> str:
        """``survival`` in the module's printed form."""
        return f"survival={self.survival:g}"

    def forward(self, x: Tensor) -> Tensor:
        """``[N, …]`` to the same shape."""
        if not self.training:
            return x * self.survival
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        uniform = torch.rand(3, *shape, device=x.device)
        keep = uniform[0] < self.survival
        forward_scale = torch.where(keep, 1.0, uniform[1] * 2 - 1).to(x.dtype)
        backward_scale = torch.where(keep, 1.0, uniform[2]).to(x.dtype)
        return _ScaleBothWays.apply(x, forward_scale, backward_scale)


def survival_probability(block: int, blocks: int, p_max: float) -> float:
    """p of block ``block`` of ``blocks``, counted from 1, with linear decay: ``1 − block / blocks · p_max``."""
    return 1 - block / blocks * p_max
