"""Wide residual networks (Zagoruyko, Komodakis: Wide residual networks, 2016)."""

from torch import Tensor, nn

from cifarfast.errors import UserError
from cifarfast.kernels import Dropout

from .layers import BatchNormReLU2d, batch_norm, conv1x1, conv3x3, global_avg_pool
from .registry import register, register_family


class WideBlock(nn.Module):
    """Pre-activation block: ``conv(dropout(relu(bn(conv(a))))) + shortcut`` with ``a = relu(bn(x))``.

    Where the shapes agree the shortcut is ``x``; where they do not it is a 1×1 convolution of ``a``, so both branches
    share the first BN-ReLU. Without ``first_relu``, ``a = bn(x)``; with ``last_bn`` the branch ends in a batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, first_relu: bool, last_bn: bool) -> None:
        super().__init__()
        self.bn1 = batch_norm(in_channels, relu=first_relu)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = BatchNormReLU2d(out_channels)
        self.dropout = Dropout(0.3)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels) if last_bn else None
        projects = stride != 1 or in_channels != out_channels
        self.shortcut = conv1x1(in_channels, out_channels, stride) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, out_channels, H/stride, W/stride]``."""
        pre = self.bn1(x)
        out = self.conv2(self.dropout(self.bn2(self.conv1(pre))))
        if self.bn3 is not None:
            out = self.bn3(out)
        return out + (x if self.shortcut is None else self.shortcut(pre))


@register("wrn16_8", "wide ResNet, depth 16, width 8", depth=16, width=8)
@register("wrn16_8_no_relu1", "wrn16_8 without the first ReLU of each block", depth=16, width=8, first_relu=False)
@register("wrn16_8_last_bn", "wrn16_8 with a batch norm at each block's end", depth=16, width=8, last_bn=True)
@register("wrn28_10", "wide ResNet, depth 28, width 10", depth=28, width=10)
@register("wrn40_2", "wide ResNet, depth 40, width 2", depth=40, width=2)
@register_family(r"wrn(?P<depth>\d+)_(?P<width>\d+)", "wrn{depth}_{width}", "wide ResNet, depth {depth}, width {width}")
class WideResNet(nn.Module):
    """3×3 stem of 16, three groups of (depth − 4)/6 blocks, BN-ReLU, global average pooling, dense.

    The groups have 16, 32 and 64 times ``width`` channels; the second and third halve the side. No convolution has a
    bias. Dropout .3 between the convolutions of a block, the paper's rate for CIFAR. Recipes b20 to b27.

    Raises:
        UserError: the depth is not 6n + 4, or the width is 0.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        first_relu: bool = True,
        last_bn: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise UserError(f"a wide ResNet's depth is 6n + 4 (10, 16, 22, 28, 34, 40, …), got {depth}")
        if width < 1:
            raise UserError(f"a wide ResNet's width is at least 1, got {width}")
        super().__init__()
        channels = 16
        self.conv1 = conv3x3(in_channels, channels)
        groups = []
        for group in range(3):
            blocks = []
            for index in range((depth - 4) // 6):
                stride = 2 if group and not index else 1
                out_channels = 16 * 2**group * width
                blocks.append(WideBlock(channels, out_channels, stride, first_relu=first_relu, last_bn=last_bn))
                channels = out_channels
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.bn = BatchNormReLU2d(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.bn(self.groups(self.conv1(x)))
        return self.fc(global_avg_pool(x))
