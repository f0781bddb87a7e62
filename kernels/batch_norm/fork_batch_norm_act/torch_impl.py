"""The gradient of the fork in closed form with torch ops: its implementation without Triton."""

from torch import Tensor

from ..activations import through_activation
from ..batch_norm_act.torch_impl import input_gradients, pre_activation


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
    z = pre_activation(x, statistics, weight, bias)
    dz = through_activation(grad.to(z.dtype), z, act, negative_slope, z.to(x.dtype))
    return input_gradients(dz, x, statistics, weight, training, other)
