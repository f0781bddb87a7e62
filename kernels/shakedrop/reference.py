"""ShakeDrop in plain torch: the truth that the kernels are tested against."""

from typing import Any

import torch
from torch import Tensor

from .draws import Scaling, draw_coefficients


class ScaleBothWays(torch.autograd.Function):
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


def scale_branch(branch: Tensor, scaling: Scaling) -> Tensor:
    """``(b + α − bα) · branch``, backward ``(b + β − bβ) · grad``; ``p · branch`` both ways without a seed."""
    if scaling.seed is None:
        return branch * scaling.keep_probability
    forward_scale, backward_scale = draw_coefficients(branch.shape, branch.device, scaling)
    return ScaleBothWays.apply(branch, forward_scale.to(branch.dtype), backward_scale.to(branch.dtype))


def shakedrop_reference(
    shortcut: Tensor, branch: Tensor, keep_probability: float, *, training: bool = True, **draws: Any
) -> Tensor:
    """``shortcut + (b + α − bα) · branch``, backward ``b + β − bβ``; in evaluation ``shortcut + p · branch``.

    Arguments and result are those of ``shakedrop``. Half precision is computed in fp32. Nothing is checked; in
    training there must be a seed.
    """
    dtype = torch.promote_types(branch.dtype, torch.float32)
    scaling = Scaling.of(keep_probability, training, **draws)
    return (shortcut.to(dtype) + scale_branch(branch.to(dtype), scaling)).to(branch.dtype)
