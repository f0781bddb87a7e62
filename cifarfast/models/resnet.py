"""Residual networks (He, Zhang, Ren, Sun: Deep residual learning, 2015) with the 3×3 stem used on small images."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import BatchNormReLU2d, conv1x1, conv3x3, global_avg_pool
from .registry import register


class Shortcut(nn.Module):
    """Identity where the shapes agree, else 1×1 convolution and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.conv = conv1x1(in_channels, out_channels, stride)
            self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C', H/stride, W/stride]``."""
        return self.bn(self.conv(x)) if self.projects else x


class BasicBlock(nn.Module):
    """``relu(bn(conv3×3(relu(bn(conv3×3(x))))) + shortcut(x))``."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = BatchNormReLU2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = Shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, width, H/stride, W/stride]``."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1 to four times the width; batch norm after each, ReLU after the addition."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = conv1x1(in_channels, width)
        self.bn1 = BatchNormReLU2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = BatchNormReLU2d(width)
        self.conv3 = conv1x1(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = Shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, 4·width, H/stride, W/stride]``."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


@register("resnet18", "ResNet-18, 3×3 stem", block=BasicBlock, blocks=(2, 2, 2, 2))
@register("resnet50", "ResNet-50, 3×3 stem", block=Bottleneck, blocks=(3, 4, 6, 3))
@register("res15", "four stages, 15 residual blocks", block=BasicBlock, blocks=(2, 2, 4, 7), widths=(64, 128, 256, 256))
class ResNet(nn.Module):
    """3×3 stem, residual stages of which all but the first halve the side, global average pooling, dense.

    ``resnet18`` and ``resnet50`` are the ImageNet networks with the 7×7 stride-2 stem and its max-pooling replaced by a
    3×3 convolution. ``res15`` is recipe b19; its blocks a stage and widths are chosen to give 13.5 M parameters and
    0.71 GMAC.
    """

    def __init__(
        self,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = conv3x3(in_channels, channels)
        self.bn1 = BatchNormReLU2d(channels)
        stages = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            layers = []
            for index in range(count):
                layers.append(block(channels, width, stride=2 if stage and not index else 1))
                channels = width * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.stages(self.bn1(self.conv1(x)))
        return self.fc(global_avg_pool(x))
