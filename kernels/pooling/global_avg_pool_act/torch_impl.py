"""The op and its gradient in closed form with torch ops: its implementation without Triton."""

from torch import Tensor

from ...batch_norm.activations import activate, through_activation
from ...batch_norm.batch_norm_act.torch_impl import input_gradients, pre_activation
from ...batch_norm.norm import Norm


def global_avg_pool_act(x: Tensor, norm: Norm) -> Tensor:
    """``mean_hw act(z)``, [N, C], with ``z = (x − mean) · rstd · weight + bias``."""
    z = pre_activation(x, norm)
    return activate(z, norm.act, norm.negative_slope).mean(dim=(2, 3)).to(x.dtype)


def global_avg_pool_act_backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias for ``grad`` [N, C]; the last two are empty where there is no weight."""
    z = pre_activation(x, norm)
    dz = grad.to(z.dtype)[:, :, None, None] / (x.shape[2] * x.shape[3])
    dz = through_activation(dz, z, norm.act, norm.negative_slope, z.to(x.dtype))
    return input_gradients(dz, x, norm.statistics, norm.weight, norm.training)
