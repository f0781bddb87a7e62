"""GoogLeNet (Szegedy et al.: Going deeper with convolutions, 2014) with batch norm, for small images."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cifarfast.kernels import Dropout

from .layers import ConvBNReLU, global_avg_pool
from .registry import register


class Widths(NamedTuple):
    """Channels of an inception module, named as in the paper's table 1."""

    conv1: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    pool: int


# The paper's modules 3a–3b, 4a–4e, 5a–5b; a max-pooling lies between the groups.
MODULES = (
    (Widths(64, 96, 128, 16, 32, 32), Widths(128, 128, 192, 32, 96, 64)),
    (
        Widths(192, 96, 208, 16, 48, 64),
        Widths(160, 112, 224, 24, 64, 64),
        Widths(128, 128, 256, 24, 64, 64),
        Widths(112, 144, 288, 32, 64, 64),
        Widths(256, 160, 320, 32, 128, 128),
    ),
    (Widths(256, 160, 320, 32, 128, 128), Widths(384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
    """Concatenates 1×1; 1×1, 3×3; 1×1, 3×3, 3×3; and max-pool 3×3, 1×1. Two 3×3 stand for the paper's 5×5."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        self.out_channels = widths.conv1 + widths.conv3 + widths.conv5 + widths.pool
        self.branch1 = ConvBNReLU(in_channels, widths.conv1, 1)
        self.branch3 = nn.Sequential(
            ConvBNReLU(in_channels, widths.reduce3, 1),
            ConvBNReLU(widths.reduce3, widths.conv3, 3),
        )
        self.branch5 = nn.Sequential(
            ConvBNReLU(in_channels, widths.reduce5, 1),
            ConvBNReLU(widths.reduce5, widths.conv5, 3),
            ConvBNReLU(widths.conv5, widths.conv5, 3),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            ConvBNReLU(in_channels, widths.pool, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], dim=1)


@register("googlenet", "GoogLeNet (Inception v1) with batch norm, 3×3 stem")
class GoogLeNet(nn.Module):
    """3×3 stem of 192, nine inception modules, global average pooling, dropout .4, dense.

    3×3 stride-2 max-pooling after the second and the seventh module; no auxiliary classifiers.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.stem = ConvBNReLU(in_channels, 192, 3)
        layers: list[nn.Module] = []
        channels = 192
        for group, modules in enumerate(MODULES):
            if group:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            for widths in modules:
                inception = Inception(channels, widths)
                layers.append(inception)
                channels = inception.out_channels
        self.features = nn.Sequential(*layers)
        self.dropout = Dropout(0.4)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        return self.fc(self.dropout(global_avg_pool(self.features(self.stem(x)))))
