"""What ``ConvBNAct2d`` and ``BNActConv2d`` share: a convolution and a batch norm as submodules."""

from typing import Any

import torch
from torch import Tensor, nn

from ..batch_norm.batch_norm_act.module import BatchNormActBase
from .arguments import check_geometry


def cast(tensor: Tensor) -> Tensor:
    """An input or weight as ``torch.nn.Conv2d`` takes it: where autocast is enabled on its device, in autocast's dtype,
    unless it is fp64.
    """
    device = tensor.device.type
    if not torch.is_autocast_enabled(device) or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


class ConvAndBatchNorm(nn.Module):
    """Submodules ``conv`` (``torch.nn.Conv2d`` without bias) and ``bn`` (a ``torch.nn.BatchNorm2d`` with activation).

    ``state_dict`` has ``conv.weight`` and ``bn.…`` as the two modules of torch have them. The batch norm is over the
    convolution's output channels, or with ``norm_first`` over its input's. Under ``torch.autocast`` x, a residual and
    the convolution's weight are cast to its dtype first, which is the result's too.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, device, dtype: as in ``torch.nn.Conv2d``; kernel 1 or
            3, stride 1 or 2, channels multiples of 8.
        norm: eps, momentum, affine, track_running_stats as in ``torch.nn.BatchNorm2d``; act and negative_slope, see
            ``batch_norm_act``.
    """

    norm_first: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **norm: Any,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels <= 0 or channels % 8:
                raise ValueError(f"{name} must be a multiple of 8, got {channels}")
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3, got {kernel_size}")
        geometry = check_geometry(stride, padding)
        sizes = (in_channels, out_channels, kernel_size, geometry.stride, geometry.padding)
        self.conv = nn.Conv2d(*sizes, bias=False, device=device, dtype=dtype)
        self.conv.weight = nn.Parameter(self.conv.weight.detach().contiguous(memory_format=torch.channels_last))
        channels = in_channels if self.norm_first else out_channels
        self.bn = BatchNormActBase(channels, device=device, dtype=dtype, **norm)

    def _arguments(self, x: Tensor) -> dict[str, Any]:
        """The op's arguments."""
        tensors = {"x": cast(x), "conv_weight": cast(self.conv.weight)}
        return {**tensors, "stride": self.conv.stride, "padding": self.conv.padding, **self.bn._arguments()}
