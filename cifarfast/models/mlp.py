"""Models without convolutions."""

import torch
from torch import Tensor, nn

from .registry import register


@register("linear", "softmax regression: flatten, dense")
class LinearClassifier(nn.Module):
    """Softmax regression on the flattened image, ``logits = W x + b``. Recipe a1."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.fc = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        return self.fc(x.flatten(1))


@register("mlp100", "perceptron with one hidden layer of 100 sigmoid units", hidden=100)
class MLP(nn.Module):
    """Perceptron with one hidden layer, ``logits = W₂ σ(W₁ x + b₁) + b₂``, σ the sigmoid. Recipe a2 (hidden 100)."""

    def __init__(self, *, hidden: int, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.fc1 = nn.Linear(in_channels * image_size**2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        return self.fc2(torch.sigmoid(self.fc1(x.flatten(1))))
