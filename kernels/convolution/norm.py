"""A batch norm and the activation after it, as the implementations of the convolution ops take them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """``act((x − mean) · rstd · weight + bias)``.

    Args:
        stats: [3, C] fp32 (fp64 for fp64): mean, its part below rounding, rstd, as ``batch_norm_act`` has them.
        weight, bias: [C], or None for 1 and 0.
        training: whether the statistics are those of the batch, so that gradients go through them.
        act, negative_slope: the activation.
    """

    stats: Tensor
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    act: str
    negative_slope: float
