"""Wide residual networks on fused ops."""

from torch import Tensor

from ..wrn import WideBlock, WideResNet
from .layers import FusedConv2d, FusedNorm, Terms, added, conv_stats, fork_norm_conv, norm_conv
from .padding import Fused
from .switch import fuses


@fuses(WideBlock)
class FusedWideBlock(Fused, WideBlock):
    """Each BN-ReLU runs with the convolution after it, but for two: a projecting block's first, whose result both
    convolutions read, and one that dropout follows, which runs with the dropout. The sum that ends a block runs with
    the BN-ReLU of the next: a block takes and returns the two terms."""

    bn1: FusedNorm
    conv1: FusedConv2d
    bn2: FusedNorm
    conv2: FusedConv2d
    bn3: FusedNorm | None
    shortcut: FusedConv2d | None

    def forward(self, x: Tensor | Terms) -> Tensor | Terms:  # type: ignore[override]
        drops = self.dropout.drops
        if self.shortcut is None:
            shortcut, out, statistics = fork_norm_conv(x, self.bn1, self.conv1, next_norm=None if drops else self.bn2)
        else:
            first = self.bn1(x) if isinstance(x, Tensor) else self.bn1.fork(x)[1]
            shortcut = self.shortcut(first)
            out, statistics = (self.conv1(first), None) if drops else conv_stats(first, self.conv1, self.bn2)
        if drops:
            out = self.conv2(self.bn2(out, dropout=self.dropout))
        else:
            out, _ = norm_conv(out, self.bn2, self.conv2, statistics)
        return (out, shortcut) if self.bn3 is None else self.bn3(out, shortcut)


@fuses(WideResNet)
class FusedWideResNet(Fused, WideResNet):
    """The last BN-ReLU and the pooling after it are one op."""

    bn: FusedNorm

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn.global_avg_pool(added(self.groups(self.conv1(x)))))
