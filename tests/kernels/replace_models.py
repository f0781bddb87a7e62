"""Models for the tests of ``replace_modules``."""

import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PreActivation(nn.Module):
    """A pre-activation block; its ReLU is used twice, after a batch norm each time."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu(self.bn1(x)))
        return x + self.conv2(self.relu(self.bn2(y)))


class Functional(nn.Module):
    """Activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class FunctionalBlock(nn.Module):
    """A residual block with functions and an inline shortcut, which is the first operand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.shortcut = nn.Conv2d(8, 16, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return torch.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class UsedElsewhere(nn.Module):
    """One activation module after a batch norm and somewhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(self.bn(self.conv(x))).flatten(1))


class Classifier(nn.Module):
    """A network that computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn_relu(8, 8)
        self.head = nn.Linear(8, 5)
        self.criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0]), label_smoothing=0.1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.body(x).mean(dim=(2, 3)))
        return self.criterion(logits, torch.arange(len(logits), device=x.device) % 5)


def conv_bn_relu(c: int, k: int, size: int = 3, **options: object) -> nn.Sequential:
    act = options.pop("act", nn.ReLU(inplace=True))
    return nn.Sequential(nn.Conv2d(c, k, size, bias=False, **options), nn.BatchNorm2d(k), act)


def shared_relu() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(*conv_bn_relu(8, 8, act=relu), *conv_bn_relu(8, 16, act=relu))


def torchvision_resnet(block: str) -> Callable[[], nn.Module]:
    """One block a stage."""
    resnet = "torchvision.models.resnet"
    return lambda: pytest.importorskip(resnet).ResNet(getattr(sys.modules[resnet], block), [1] * 4, num_classes=10)


def torchvision_vgg() -> nn.Module:
    """VGG-11 with few channels and one dense layer."""
    layers = [16, "M", 32, "M", 64, 64, "M", 64, 64, "M", 64, 64, "M"]
    features = pytest.importorskip("torchvision.models.vgg").make_layers(layers, batch_norm=True)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(64, 10))


def timm_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=10, **options)


# model, size of its input, how many ops run after the swap
SMALL = {
    "sequential": (lambda: conv_bn_relu(8, 16), (3, 8, 7, 6), {"conv2d_bn_act": 1}),
    "slope": (lambda: conv_bn_relu(8, 16, act=nn.LeakyReLU(0.3)), (3, 8, 7, 6), {"conv2d_bn_act": 1}),
    "shared relu": (shared_relu, (3, 8, 7, 6), {"conv2d_bn_act": 2}),
    "pooling": (lambda: nn.Sequential(*conv_bn_relu(8, 8), nn.MaxPool2d(2)), (2, 8, 9, 8), {"max_pool_bn_act": 1}),
    "pre-activation": (PreActivation, (2, 8, 6, 6), {"batch_norm_act": 1, "conv2d_bn_act": 1}),
    "functional": (Functional, (2, 8, 6, 6), {"conv2d_bn_act": 1}),
    "functional block": (FunctionalBlock, (2, 8, 6, 6), {"conv2d_bn_act": 2}),
    "used elsewhere": (UsedElsewhere, (2, 8, 4, 4), {}),
    "loss inside": (Classifier, (7, 8, 5, 5), {"conv2d_bn_act": 1, "cross_entropy": 1}),
}
_IMAGES = (8, 3, 32, 32)
_NARROW = {"channels": (16, 32, 64, 128)}
LARGE = {
    "torchvision basic blocks": (torchvision_resnet("BasicBlock"), _IMAGES, {"batch_norm_act": 1, "conv2d_bn_act": 11}),
    "timm resnet26": (
        timm_model("resnet26", channels=(24, 32, 64, 128)),
        _IMAGES,
        {"batch_norm_act": 1, "conv2d_bn_act": 28},
    ),
    "timm resnetv2_18": (timm_model("resnetv2_18", **_NARROW), _IMAGES, {"batch_norm_act": 9, "conv2d_bn_act": 8}),
}
SLOW = {
    "timm resnet18d": (timm_model("resnet18d", **_NARROW), _IMAGES, {"batch_norm_act": 2, "conv2d_bn_act": 21}),
    "torchvision vgg11_bn": (
        torchvision_vgg,
        (4, 3, 32, 32),
        {"max_pool_bn_act": 5, "batch_norm_act": 3},
    ),
    "torchvision bottlenecks": (torchvision_resnet("Bottleneck"), _IMAGES, {"batch_norm_act": 1, "conv2d_bn_act": 16}),
    "timm densenet121": (
        timm_model("densenet121", growth_rate=16, block_config=(2, 2, 2)),
        _IMAGES,
        {"batch_norm_act": 10, "conv2d_bn_act": 6},
    ),
    "timm efficientnet_b0": (timm_model("efficientnet_b0"), _IMAGES, {"batch_norm_act": 17, "conv2d_bn_act": 32}),
}
MODELS = {**SMALL, **LARGE, **SLOW}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A model whose batch norms have settled somewhere, and an input."""
    make, shape, _ = MODELS[name]
    torch.manual_seed(seed)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model, torch.randn(shape)
