"""MobileNetV2 (Sandler et al.: Inverted residuals and linear bottlenecks, 2018) for small images."""

from torch import Tensor, nn

from cifarfast.kernels import Dropout

from .layers import global_avg_pool
from .registry import register

# expansion, channels, blocks, stride of the first block; the second row's stride is 2 in the ImageNet network
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_bn_relu6(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Padded convolution, batch norm, ReLU clipped at 6."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1×1 to ``expansion`` times the channels, depthwise 3×3, 1×1 without activation; added to x where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.adds = stride == 1 and in_channels == out_channels
        hidden = in_channels * expansion
        layers = [conv_bn_relu6(in_channels, hidden, 1)] if expansion != 1 else []
        self.branch = nn.Sequential(
            *layers,
            conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, out_channels, H/stride, W/stride]``."""
        return x + self.branch(x) if self.adds else self.branch(x)


@register("mobilenet_v2", "MobileNetV2, stem and second stage at stride 1")
class MobileNetV2(nn.Module):
    """3×3 stem of 32, 17 inverted residuals, 1×1 to 1,280, global average pooling, dropout .2, dense.

    The side shrinks 8 times where the ImageNet network shrinks it 32 times; parameters are the same.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.stem = conv_bn_relu6(in_channels, 32, 3)
        layers: list[nn.Module] = []
        channels = 32
        for expansion, width, blocks, first_stride in STAGES:
            for index in range(blocks):
                layers.append(InvertedResidual(channels, width, 1 if index else first_stride, expansion))
                channels = width
        self.features = nn.Sequential(*layers)
        self.head = conv_bn_relu6(channels, 1280, 1)
        self.dropout = Dropout(0.2)
        self.fc = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.head(self.features(self.stem(x)))
        return self.fc(self.dropout(global_avg_pool(x)))
