"""The gradient of the fork in closed form with torch ops: its implementation without Triton."""

from torch import Tensor

from ..batch_norm_act.torch_impl import batch_norm_act_backward
from ..norm import Norm


def fork_batch_norm_act_bwd(
    grad: Tensor,
    other: Tensor | None,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    act: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (through BN from ``grad``, plus ``other``), weight and bias; the last two may be empty."""
    norm = Norm(statistics, weight, bias, training, act, negative_slope)
    return batch_norm_act_backward(grad, x, norm, other=other)[:3]
