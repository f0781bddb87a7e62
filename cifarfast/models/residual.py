"""The five-block residual network of recipe b18."""

import torch.nn.functional as F
from torch import Tensor, nn

from cifarfast.kernels import Dropout

from .layers import BatchNormReLU2d, conv3x3
from .registry import register
from .resnet import BasicBlock


@register("res5", "five residual blocks with max-pooling, dense head", min_image_size=8)
class Res5(nn.Module):
    """Stem 64; residual 64, 128, pool; 256, 256, pool; 512, pool; dense 512, 256, ``num_classes``. Recipe b18.

    The blocks are ResNet's basic blocks at stride 1, so a widening block works at the full side and 2×2 max-pooling
    halves it afterwards; ReLU and dropout .1 after both hidden dense layers.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = BatchNormReLU2d(64)
        self.block1 = BasicBlock(64, 64)
        self.block2 = BasicBlock(64, 128)
        self.block3 = BasicBlock(128, 256)
        self.block4 = BasicBlock(256, 256)
        self.block5 = BasicBlock(256, 512)
        self.fc1 = nn.Linear(512 * (image_size // 8) ** 2, 512)
        self.drop1 = Dropout(0.1)
        self.fc2 = nn.Linear(512, 256)
        self.drop2 = Dropout(0.1)
        self.fc3 = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.block1(self.bn1(self.conv1(x)))
        x = F.max_pool2d(self.block2(x), 2)
        x = F.max_pool2d(self.block4(self.block3(x)), 2)
        x = F.max_pool2d(self.block5(x), 2)
        x = self.drop1(F.relu(self.fc1(x.flatten(1))))
        x = self.drop2(F.relu(self.fc2(x)))
        return self.fc3(x)
