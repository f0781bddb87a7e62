"""Small parts that several architectures share."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNormReLU2d(nn.BatchNorm2d):
    """``relu(batch_norm(x))``; parameters, buffers and ``state_dict`` keys are those of ``torch.nn.BatchNorm2d``.

    Being one module, it can be exchanged for a fused implementation without touching the architecture.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same shape."""
        return F.relu(super().forward(input))


class ConvBNReLU(nn.Sequential):
    """Padded convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        super().__init__(conv, BatchNormReLU2d(out_channels))


def batch_norm(channels: int, *, relu: bool) -> nn.BatchNorm2d:
    """Batch norm over ``channels``, with or without the ReLU after it."""
    return BatchNormReLU2d(channels) if relu else nn.BatchNorm2d(channels)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3×3 convolution, padding 1, no bias (a batch norm follows)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """1×1 convolution, no bias (a batch norm follows, or the result is added to one)."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


def global_avg_pool(x: Tensor) -> Tensor:
    """Mean over the feature map, ``[N, C, H, W]`` to ``[N, C]``; on 8×8 maps it is the usual 8×8 average pooling."""
    return x.mean(dim=(2, 3))


def out_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Side in pixels after a convolution or pooling: ``⌊(size + 2·padding − kernel) / stride⌋ + 1``."""
    return (size + 2 * padding - kernel) // stride + 1
