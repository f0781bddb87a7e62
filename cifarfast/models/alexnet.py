"""AlexNet (Krizhevsky, Sutskever, Hinton: ImageNet classification, 2012) for small images."""

from torch import Tensor, nn

from cifarfast.kernels import Dropout

from .layers import out_size
from .registry import register


@register("alexnet", "AlexNet, 3×3 stride-2 stem", min_image_size=15)
class AlexNet(nn.Module):
    """Five convolutions (64, 192, 384, 256, 256) and three dense layers (4,096, 4,096, ``num_classes``), ReLU.

    The one-column widths; the 11×11 stride-4 stem becomes 3×3 stride 2, and pooling is 2×2 so that a 32×32 image keeps
    a 2×2 map for the dense layers. Dropout .5 before both hidden dense layers.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        size = out_size(image_size, 3, stride=2, padding=1) // 8
        self.classifier = nn.Sequential(
            Dropout(0.5),
            nn.Linear(256 * size**2, 4096),
            nn.ReLU(),
            Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        return self.classifier(self.features(x).flatten(1))
