"""The models of this package on the fused ops of ``cifarfast.kernels``.

A fused module has the parameters, buffers and names of the plain one and another ``forward``; where a width is not a
multiple of 8 its tensors are stored padded with zeros (``padding.py``). ``layers.py`` has what the families share.
"""

from torch import nn

from ..googlenet import GoogLeNet
from ..mobilenet import MobileNetV2
from ..plain_cnn import BatchNormCNN, PlainCNN, TutorialBatchNormCNN
from ..pyramidnet import PyramidNet
from ..residual import Res5
from ..resnet import ResNet
from ..vgg import VGG16
from ..wrn import WideResNet

# Importing a family's file registers its fused modules.
from . import branches, plain_cnn, pyramidnet, resnet, wrn  # noqa: F401
from .padding import true_shapes
from .switch import switch

__all__ = ["fuse", "stored_in_channels", "true_shapes"]

NETWORKS = (
    WideResNet,
    PyramidNet,
    ResNet,
    Res5,
    VGG16,
    PlainCNN,
    BatchNormCNN,
    TutorialBatchNormCNN,
    GoogLeNet,
    MobileNetV2,
)


def fuse(model: nn.Module) -> nn.Module:
    """Switch a model of this package to the fused ops, in place, and return it.

    ``state_dict`` keeps its keys and shapes, in both directions; parameters keep their order and values. Results differ
    from the plain model's by rounding only, and ShakeDrop and dropout draw the same numbers. Batch norm computes in
    fp32; a convolution or dense layer in the dtype of its input (under autocast in autocast's), whatever its weight's
    is. Images may have the model's channels, or ``stored_in_channels`` of them with zeros in those that are added.

    Call it before an optimizer takes the parameters: those that are stored padded are exchanged for wider ones. Models
    without batch norm over images, and those of other libraries, are returned as they are.
    """
    if isinstance(model, NETWORKS) and any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        switch(model)
    return model


def stored_in_channels(model: nn.Module) -> int:
    """Channels of the images that the model reads without padding them: 8 for three in a fused model."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.shape[1] * module.groups
    return model.in_channels  # type: ignore[return-value]
