"""GoogLeNet and MobileNetV2 on fused ops."""

from typing import Any

from torch import Tensor

from ..layers import ConvBNReLU
from ..mobilenet import InvertedResidual
from .layers import conv_norm
from .padding import Fused
from .switch import fuses


@fuses(ConvBNReLU)
class FusedConvBNReLU(Fused, ConvBNReLU):
    """Convolution, batch norm and ReLU as one op."""

    def forward(self, input: Tensor) -> Tensor:
        layers: list[Any] = list(self)
        conv, norm = layers
        return conv_norm(input, conv, norm)


@fuses(InvertedResidual)
class FusedInvertedResidual(Fused, InvertedResidual):
    """The last batch norm adds the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        *layers, norm = list(self.branch)
        out = x
        for layer in layers:
            out = layer(out)
        return norm(out, x if self.adds else None)
