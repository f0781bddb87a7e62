"""Wide residual networks on fused ops."""

from torch import Tensor

from ..wrn import WideBlock, WideResNet
from .layers import FusedConv2d, FusedNorm, conv_stats, norm_conv, norm_conv_stats
from .padding import Fused
from .switch import fuses


@fuses(WideBlock)
class FusedWideBlock(Fused, WideBlock):
    """Each BN-ReLU runs with the convolution after it, but for two: a projecting block's first, whose result both
    convolutions read, and one that dropout follows."""

    bn1: FusedNorm
    conv1: FusedConv2d
    bn2: FusedNorm
    conv2: FusedConv2d
    bn3: FusedNorm | None
    shortcut: FusedConv2d | None

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            first, shortcut = None, x
        else:
            first = self.bn1(x)
            shortcut = self.shortcut(first)
        if self.dropout.training and self.dropout.p > 0:
            out = norm_conv(x, self.bn1, self.conv1) if first is None else self.conv1(first)
            out = self.conv2(self.dropout(self.bn2(out)))
        else:
            out, statistics = (
                norm_conv_stats(x, self.bn1, self.conv1) if first is None else conv_stats(first, self.conv1)
            )
            out = norm_conv(out, self.bn2, self.conv2, statistics)
        return out + shortcut if self.bn3 is None else self.bn3(out, shortcut)


@fuses(WideResNet)
class FusedWideResNet(Fused, WideResNet):
    """The last BN-ReLU and the pooling after it are one op."""

    bn: FusedNorm

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn.global_avg_pool(self.groups(self.conv1(x))))
