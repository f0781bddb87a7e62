"""The op and its gradient in closed form with torch ops: its implementation without Triton."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch_norm.activations import activate, through_activation
from ...batch_norm.batch_norm_act.torch_impl import input_gradients, pre_activation
from ...batch_norm.norm import Norm


def max_pool_bn_act(x: Tensor, norm: Norm) -> Tensor:
    """``max_pool2d(act(z), 2)``, channels_last, with ``z = (x − mean) · rstd · weight + bias``."""
    y = F.max_pool2d(activate(pre_activation(x, norm), norm.act, norm.negative_slope), 2)
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last)


def max_pool_bn_act_backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; the last two are empty where there is no weight."""
    z = pre_activation(x, norm)
    _, indices = F.max_pool2d(activate(z.clone(), norm.act, norm.negative_slope), 2, return_indices=True)
    dz = torch.zeros_like(z, memory_format=torch.contiguous_format)
    dz.flatten(2).scatter_(2, indices.flatten(2), grad.to(dz.dtype).flatten(2))
    dz = through_activation(dz, z, norm.act, norm.negative_slope, z.to(x.dtype))
    return input_gradients(dz, x, norm.statistics, norm.weight, norm.training)
