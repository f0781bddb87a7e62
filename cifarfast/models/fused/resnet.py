"""Residual networks on fused ops: the last batch norm of a block, the shortcut and the ReLU are one op."""

from torch import Tensor

from ..resnet import BasicBlock, Bottleneck, Shortcut
from .layers import FusedConv2d, FusedNorm, conv_norm
from .padding import Fused
from .switch import fuses


@fuses(Shortcut)
class FusedShortcut(Fused, Shortcut):
    """The projection and its batch norm as one op."""

    conv: FusedConv2d
    bn: FusedNorm

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, self.conv, self.bn) if self.projects else x


@fuses(BasicBlock)
class FusedBasicBlock(Fused, BasicBlock):
    """``bn2`` adds the shortcut and applies the ReLU."""

    conv1: FusedConv2d
    bn1: FusedNorm
    bn2: FusedNorm

    def adopt(self) -> None:
        self.bn2.act = "relu"

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.bn1)
        return self.bn2(self.conv2(out), self.shortcut(x))


@fuses(Bottleneck)
class FusedBottleneck(Fused, Bottleneck):
    """``bn3`` adds the shortcut and applies the ReLU."""

    conv1: FusedConv2d
    bn1: FusedNorm
    conv2: FusedConv2d
    bn2: FusedNorm
    bn3: FusedNorm

    def adopt(self) -> None:
        self.bn3.act = "relu"

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(conv_norm(x, self.conv1, self.bn1), self.conv2, self.bn2)
        return self.bn3(self.conv3(out), self.shortcut(x))
