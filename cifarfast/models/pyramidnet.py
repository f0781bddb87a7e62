"""PyramidNet (Han, Kim, Kim: Deep pyramidal residual networks, 2017), with or without ShakeDrop."""

import torch.nn.functional as F
from torch import Tensor, nn

from cifarfast.errors import UserError
from cifarfast.kernels import ShakeDrop, linear_keep_probability

from .layers import BatchNormReLU2d, conv1x1, conv3x3, global_avg_pool
from .registry import register, register_family

STEM_WIDTH = 16


class PyramidBlock(nn.Module):
    """``branch(x) + shortcut(x)``; the shortcut has no parameters.

    Shortcut: 2×2 average pooling where the stride is 2, new channels zero. A side that is odd rounds up, as the strided
    convolution does.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, keep_probability: float | None) -> None:
        super().__init__()
        self.new_channels = width * self.expansion - in_channels
        self.stride = stride
        self.branch = self._branch(in_channels, width, stride)
        self.shakedrop = None if keep_probability is None else ShakeDrop(keep_probability)

    @staticmethod
    def _branch(in_channels: int, width: int, stride: int) -> nn.Sequential:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, width·expansion, H/stride, W/stride]``."""
        out = self.branch(x)
        if self.stride != 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return out + x if self.shakedrop is None else self.shakedrop(x, out)


class PyramidBasicBlock(PyramidBlock):
    """Branch: BN, 3×3 (with the stride), BN-ReLU, 3×3, BN."""

    @staticmethod
    def _branch(in_channels: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.BatchNorm2d(in_channels),
            conv3x3(in_channels, width, stride),
            BatchNormReLU2d(width),
            conv3x3(width, width),
            nn.BatchNorm2d(width),
        )


class PyramidBottleneck(PyramidBlock):
    """Branch: BN, 1×1, BN-ReLU, 3×3 (with the stride), BN-ReLU, 1×1 to four times the width, BN."""

    expansion = 4

    @staticmethod
    def _branch(in_channels: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.BatchNorm2d(in_channels),
            conv1x1(in_channels, width),
            BatchNormReLU2d(width),
            conv3x3(width, width, stride),
            BatchNormReLU2d(width),
            conv1x1(width, width * PyramidBottleneck.expansion),
            nn.BatchNorm2d(width * PyramidBottleneck.expansion),
        )


def pyramid_widths(blocks: int, alpha: float) -> list[int]:
    """Width of each block: 16 plus ``alpha / blocks`` a block, added up in floating point and rounded at each block."""
    widths, width = [], float(STEM_WIDTH)
    for _ in range(blocks):
        width += alpha / blocks
        widths.append(round(width))
    return widths


@register("pyramidnet110_a150", "PyramidNet-110, widening 150, basic blocks", depth=110, alpha=150)
@register(
    "pyramidnet110_a150_shakedrop", "pyramidnet110_a150 with ShakeDrop, P_max .5", depth=110, alpha=150, p_max=0.5
)
@register(
    "pyramidnet272_a200",
    "PyramidNet-272, widening 200, bottleneck blocks",
    aliases=["pyramid272_a200"],
    depth=272,
    alpha=200,
)
@register(
    "pyramidnet272_a200_shakedrop",
    "pyramidnet272_a200 with ShakeDrop, P_max .5",
    aliases=["pyramid272_a200_shakedrop"],
    depth=272,
    alpha=200,
    p_max=0.5,
)
@register_family(
    r"pyramidnet(?P<depth>\d+)_a(?P<alpha>\d+)",
    "pyramidnet{depth}_a{alpha}",
    "PyramidNet-{depth}, widening {alpha}",
)
@register_family(
    r"pyramidnet(?P<depth>\d+)_a(?P<alpha>\d+)_shakedrop",
    "pyramidnet{depth}_a{alpha}_shakedrop",
    "PyramidNet-{depth}, widening {alpha}, with ShakeDrop, P_max .5",
    p_max=0.5,
)
class PyramidNet(nn.Module):
    """3×3 stem of 16 with BN, three groups of blocks that widen by ``alpha`` in all, BN-ReLU, pool, dense.

    Up to depth 110 the blocks are basic (depth 6n + 2), above it bottlenecks (9n + 2), as in the paper; each group has
    n and the second and third group halve the side. ``p_max`` puts ShakeDrop at the end of every branch, which keeps
    block l of L with probability ``1 − l / L · p_max``. Recipes b28 to b31 (110, 150: widths 16 → 66 → 116 → 166).

    Raises:
        UserError: no network has this depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        alpha: float,
        p_max: float | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        block, layers = (PyramidBasicBlock, 6) if depth <= 110 else (PyramidBottleneck, 9)
        if depth < 8 or depth % layers != 2:
            raise UserError(
                "a PyramidNet's depth is 6n + 2 up to 110 (basic blocks) and 9n + 2 above (bottlenecks), "
                f"such as 20, 56, 110, 164, 200, 272; got {depth}"
            )
        super().__init__()
        group_blocks = (depth - 2) // layers
        blocks = 3 * group_blocks
        channels = STEM_WIDTH
        self.conv1 = conv3x3(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        groups: list[list[nn.Module]] = [[], [], []]
        for index, width in enumerate(pyramid_widths(blocks, alpha)):
            group, position = divmod(index, group_blocks)
            keep_probability = None if p_max is None else linear_keep_probability(index + 1, blocks, p_max)
            groups[group].append(block(channels, width, 2 if group and not position else 1, keep_probability))
            channels = width * block.expansion
        self.groups = nn.Sequential(*(nn.Sequential(*group) for group in groups))
        self.bn2 = BatchNormReLU2d(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.groups(self.bn1(self.conv1(x)))
        return self.fc(global_avg_pool(self.bn2(x)))
