"""VGG-16 (Simonyan, Zisserman: Very deep convolutional networks, 2014) in the form used on small images."""

from torch import Tensor, nn

from .layers import BatchNormReLU2d, global_avg_pool
from .registry import register

STAGES_16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@register("vgg16", "VGG-16 with batch norm, one dense layer")
class VGG16(nn.Module):
    """13 padded 3×3 convolutions with batch norm and ReLU, 2×2 max-pooling after each of 5 stages, pool, dense.

    The two dense layers of 4,096 of the ImageNet network are left out. Convolutions keep the bias, as in the common
    CIFAR form (14,728,266 parameters). A side that is odd rounds up in pooling.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for widths in STAGES_16:
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), BatchNormReLU2d(width)]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        return self.fc(global_avg_pool(self.features(x)))
