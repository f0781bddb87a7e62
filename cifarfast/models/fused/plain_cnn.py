"""Networks without shortcuts on fused ops: VGG and the plain CNNs with batch norm."""

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..plain_cnn import PlainCNN, TutorialBatchNormCNN
from ..vgg import VGG16
from .layers import FusedConv2d, FusedNorm, conv_norm
from .padding import Fused
from .switch import fuses


def run_layers(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """As ``nn.Sequential``, with a batch norm and the pooling after it, or a convolution and its norm, as one op."""
    layers: list[Any] = list(modules)
    while layers:
        layer, *layers = layers
        if isinstance(layer, FusedNorm) and layers and isinstance(layers[0], nn.MaxPool2d):
            pool, *layers = layers
            x = layer.max_pool(x, ceil_mode=pool.ceil_mode)
        elif isinstance(layer, FusedConv2d) and layers and not _pooled(layers):
            norm, *layers = layers
            x = conv_norm(x, layer, norm)
        else:
            x = layer(x)
    return x


def _pooled(layers: list[nn.Module]) -> bool:
    """Whether the batch norm that comes first is followed by pooling."""
    return len(layers) > 1 and isinstance(layers[1], nn.MaxPool2d)


@fuses(VGG16)
class FusedVGG16(Fused, VGG16):
    """Batch norm, ReLU and max-pooling are one op at the end of each stage."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(run_layers(self.features, x).mean(dim=(2, 3)))


@fuses(PlainCNN)
class FusedPlainCNN(Fused, PlainCNN):
    """As ``FusedVGG16``; the last batch norm runs with the global average pooling."""

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Any] = list(self.features)
        *layers, norm = layers
        return self.fc(norm.global_avg_pool(run_layers(layers, x)))


@fuses(TutorialBatchNormCNN)
class FusedTutorialBatchNormCNN(Fused, TutorialBatchNormCNN):
    """Batch norm, ReLU and max-pooling are one op."""

    conv1: FusedConv2d
    bn1: FusedNorm
    bn2: FusedNorm
    bn3: FusedNorm

    def forward(self, x: Tensor) -> Tensor:
        x = conv_norm(x, self.conv1, self.bn1)
        x = self.drop1(self.bn2.max_pool(self.conv2(x)))
        x = self.drop2(self.bn3.max_pool(self.conv3(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(self.drop3(x))
