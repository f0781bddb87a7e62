"""Convolutional networks without shortcuts: dropout, tutorial and deep plain CNNs."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from cifarfast.kernels import Dropout

from .layers import BatchNormReLU2d, conv3x3, global_avg_pool, out_size
from .registry import register

# Keras's default slope, which the source of recipes a4–a6 used; torch's own default is 0.01.
LEAKY_SLOPE = 0.3


@register("cnn_dropout", "three convolutions and a dense layer with dropout", min_image_size=4)
class DropoutCNN(nn.Module):
    """conv 32, pool, dropout; conv 64, conv 64, pool, dropout; dense 512, dropout, dense. Recipes a4 to a6.

    3×3 convolutions, all padded ("same"), ReLU; 2×2 max-pooling; leaky ReLU (slope 0.3) after the first dense layer;
    dropout .25, .25, .5.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1)
        self.drop1 = Dropout(0.25)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.drop2 = Dropout(0.25)
        self.fc1 = nn.Linear(64 * (image_size // 4) ** 2, 512)
        self.drop3 = Dropout(0.5)
        self.fc2 = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.drop1(F.max_pool2d(F.relu(self.conv1(x)), 2))
        x = F.relu(self.conv3(F.relu(self.conv2(x))))
        x = self.drop2(F.max_pool2d(x, 2))
        x = F.leaky_relu(self.fc1(x.flatten(1)), LEAKY_SLOPE)
        return self.fc2(self.drop3(x))


@register("cnn_bn", "cnn_dropout with batch norm, ReLU and dropout .5 everywhere", min_image_size=4)
class BatchNormCNN(nn.Module):
    """``cnn_dropout`` with batch norm after the second convolution and after flatten, ReLU, dropout .5. Recipe a7."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        features = 64 * (image_size // 4) ** 2
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1)
        self.drop1 = Dropout(0.5)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn1 = BatchNormReLU2d(64)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.drop2 = Dropout(0.5)
        self.bn2 = nn.BatchNorm1d(features)
        self.fc1 = nn.Linear(features, 512)
        self.drop3 = Dropout(0.5)
        self.fc2 = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.drop1(F.max_pool2d(F.relu(self.conv1(x)), 2))
        x = F.relu(self.conv3(self.bn1(self.conv2(x))))
        x = self.drop2(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(self.bn2(x.flatten(1))))
        return self.fc2(self.drop3(x))


@register("plain_cnn", "seven convolutions, no batch norm", batch_norm=False, min_image_size=8)
@register("plain_cnn_bn", "seven convolutions with batch norm", batch_norm=True, min_image_size=8)
class PlainCNN(nn.Module):
    """3×3 convolutions 64-64 / 128 / 128-128 / 256-512, 2×2 max-pooling at each "/", global average pooling, dense.

    The "deeper and wider plain CNN" of recipes b03 to b17; widths chosen so that the batch-normalised form has 1.9 M
    parameters and 0.10 GMAC. With batch norm the convolutions have no bias.
    """

    stages = ((64, 64), (128,), (128, 128), (256, 512))

    def __init__(self, *, batch_norm: bool, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, index = in_channels, 0
        for stage, widths in enumerate(self.stages):
            if stage:
                layers[f"pool{stage}"] = nn.MaxPool2d(2)
            for width in widths:
                index += 1
                if batch_norm:
                    layers[f"conv{index}"] = conv3x3(channels, width)
                    layers[f"bn{index}"] = BatchNormReLU2d(width)
                else:
                    layers[f"conv{index}"] = nn.Conv2d(channels, width, 3, padding=1)
                    layers[f"relu{index}"] = nn.ReLU()
                channels = width
        self.features = nn.Sequential(layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        return self.fc(global_avg_pool(self.features(x)))


@register("cnn_tutorial", "a first CNN: three valid convolutions, dense 64", min_image_size=18)
class TutorialCNN(nn.Module):
    """conv 32, pool, conv 64, pool, conv 64, dense 64, dense. Recipe c1.

    3×3 convolutions without padding ("valid"), ReLU, 2×2 max-pooling.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.conv3 = nn.Conv2d(64, 64, 3)
        size = out_size(image_size, 3) // 2
        size = out_size(size, 3) // 2
        size = out_size(size, 3)
        self.fc1 = nn.Linear(64 * size**2, 64)
        self.fc2 = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@register("cnn_tutorial_bn", "a first CNN with batch norm and dropout .5, dense 256", min_image_size=4)
class TutorialBatchNormCNN(nn.Module):
    """conv 32, conv 64, pool, dropout; conv 128, pool, dropout; dense 256, dropout, dense. Recipe c2.

    3×3 padded convolutions without bias, each followed by batch norm and ReLU; dropout .5.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 32)
        self.bn1 = BatchNormReLU2d(32)
        self.conv2 = conv3x3(32, 64)
        self.bn2 = BatchNormReLU2d(64)
        self.drop1 = Dropout(0.5)
        self.conv3 = conv3x3(64, 128)
        self.bn3 = BatchNormReLU2d(128)
        self.drop2 = Dropout(0.5)
        self.fc1 = nn.Linear(128 * (image_size // 4) ** 2, 256)
        self.drop3 = Dropout(0.5)
        self.fc2 = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        x = self.drop1(F.max_pool2d(x, 2))
        x = self.drop2(F.max_pool2d(self.bn3(self.conv3(x)), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(self.drop3(x))
