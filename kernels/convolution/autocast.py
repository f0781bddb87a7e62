"""``torch.autocast`` for the modules with a convolution."""

import torch
from torch import Tensor


def cast(tensor: Tensor) -> Tensor:
    """An input or weight as ``torch.nn.Conv2d`` takes it: where autocast is enabled on its device, in autocast's dtype,
    unless it is fp64.
    """
    device = tensor.device.type
    if not torch.is_autocast_enabled(device) or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))
