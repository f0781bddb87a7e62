"""The launch of the fork's gradient."""

from torch import Tensor

from ..batch_norm_act.triton_impl import batch_norm_act_backward
from ..norm import Norm
from ..triton_forked import fork_batch_norm_act_bwd_kernel, forked_input_gradient

__all__ = ["fork_batch_norm_act_bwd", "fork_batch_norm_act_bwd_kernel", "forked_input_gradient"]


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
