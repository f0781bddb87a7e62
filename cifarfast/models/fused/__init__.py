"""Models on the fused ops of ``cifarfast.kernels``.

Those of this package have fused twins; in any other, ``replace_modules`` puts the ops where it finds what they do. A
fused module has the parameters, buffers and names of the plain one and another ``forward``; where a width is not a
multiple of 8 its tensors are stored padded with zeros (``padding.py``). ``layers.py`` has what the families share.
"""

from torch import nn

from cifarfast.kernels import replace_modules

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
    """Switch a model to the fused ops, in place, and return it.

    ``state_dict`` keeps its keys and shapes, in both directions; parameters keep their order and values. Results differ
    from the plain model's by rounding only, and ShakeDrop and dropout draw the same numbers. Batch norm computes in
    fp32; in this package's models a convolution or dense layer computes in the dtype of its input (under autocast in
    autocast's), whatever its weight's is. Images may have the model's channels, or ``stored_in_channels`` of them with
    zeros in those that are added.

    Call it before an optimizer takes the parameters: those that are stored padded are exchanged for wider ones. This
    package's models without batch norm over images are returned as they are. In models of torchvision, timm and others
    what ``cifarfast.kernels.replace_modules`` can replace is replaced, and the rest left alone.
    """
    if _is_own(model):
        if isinstance(model, NETWORKS) and any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            switch(model)
        return model
    return replace_modules(model).model


def _is_own(model: nn.Module) -> bool:
    return type(model).__module__.partition(".")[0] == __name__.partition(".")[0]


def stored_in_channels(model: nn.Module) -> int | None:
    """Channels of the images that a model of this package reads without padding them: 8 for three in a fused one.

    None for a model of another library: it reads images as they are.
    """
    if not _is_own(model):
        return None
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.shape[1] * module.groups
    return model.in_channels  # type: ignore[return-value]
