"""A batch norm with known statistics and the activation after it, as ops and their implementations take them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """``act((x − mean) · rstd · weight + bias)``.

    Args:
        statistics: [3, C] fp32 (fp64 for fp64 x): mean, the mean's part below its rounding, ``rstd = 1/√(var + eps)``.
        weight, bias: [C], or None for 1 and 0.
        training: whether the statistics are those of the batch, so that gradients go through them.
        act, negative_slope: the activation.
    """

    statistics: Tensor
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    act: str
    negative_slope: float

    def contiguous(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Statistics, weight and bias with unit stride, as kernels read them; copied only where needed."""
        weight = self.weight if self.weight is None else self.weight.contiguous()
        bias = self.bias if self.bias is None else self.bias.contiguous()
        return self.statistics.contiguous(), weight, bias

    def empty_gradients(self) -> tuple[Tensor, Tensor]:
        """What the gradients of weight and bias look like: [C], or [0] where there is no weight."""
        like = self.statistics.new_empty(0) if self.weight is None else self.weight
        return like.new_empty(like.shape), like.new_empty(like.shape)
