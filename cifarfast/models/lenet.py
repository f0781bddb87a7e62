"""LeNet-5 in its two usual modern forms (LeCun, Bottou, Bengio, Haffner: Gradient-based learning, 1998)."""

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import out_size
from .registry import register


@register("lenet5", "LeNet-5, third layer a 120-channel 5×5 convolution", min_image_size=28)
class LeNet5(nn.Module):
    """conv 6@5×5, pool, conv 16@5×5, pool, conv 120@5×5, dense 84, dense; ReLU, 2×2 max-pooling. Recipe a3.

    Images smaller than 32×32 are padded by 2 pixels in the first convolution, as the original pads 28×28 digits to
    32×32.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        padding = 2 if image_size < 32 else 0
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv3 = nn.Conv2d(16, 120, 5)
        size = out_size(image_size, 5, padding=padding) // 2
        size = out_size(size, 5) // 2
        size = out_size(size, 5)
        self.fc1 = nn.Linear(120 * size**2, 84)
        self.fc2 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


@register("lenet", "LeNet-5 style: two convolutions, three dense layers", min_image_size=16)
class LeNet(nn.Module):
    """conv 6@5×5, pool, conv 16@5×5, pool, dense 120, dense 84, dense; ReLU, 2×2 max-pooling. Recipes b01 and b02."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        size = out_size(image_size, 5) // 2
        size = out_size(size, 5) // 2
        self.fc1 = nn.Linear(16 * size**2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.fc3(x)
