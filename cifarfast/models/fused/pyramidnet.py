"""PyramidNet on fused ops: widths stored in multiples of 8, batch norm, ShakeDrop and shortcut as one op.

Padded channels are zero from end to end. Their weights are, so convolutions and batch norms make zeros of zeros, both
ways. One gradient would not be zero: the shortcut hands a block the gradient of channels that a later, wider block
uses and that are padding in this one, and the bias of the block's last batch norm would gather it. The tail knows how
many of its channels are true, and leaves it out.
"""

from typing import Any

from torch import Tensor, nn

from cifarfast.kernels import ShakeDrop, ShakeDropTail

from ..pyramidnet import PyramidBasicBlock, PyramidBlock, PyramidBottleneck, PyramidNet
from .layers import FusedConv2d, FusedNorm, conv_norm, fork_norm_conv, norm_conv
from .padding import Fused
from .switch import fuses


class FusedTail(Fused, ShakeDropTail):
    """The last batch norm of a branch, ShakeDrop and the shortcut: ``shortcut(x) + k · BN(h)``."""

    num_features: int

    def take_over(self, shakedrop: ShakeDrop | None) -> None:
        """Become the tail of a block that has this ShakeDrop, or none."""
        shakedrop = ShakeDrop(1.0) if shakedrop is None else shakedrop
        for name in ("keep_probability", "level", "keep_level", "seed", "step", "indices", "layer"):
            setattr(self, name, getattr(shakedrop, name))
        self.true_channels = self.num_features

    def forward(
        self, h: Tensor, x: Tensor, statistics: Tensor | None, next_norm: nn.BatchNorm2d
    ) -> tuple[Tensor, Tensor | None]:
        """The result, and its statistics where ``next_norm``, the batch norm after it, is in training and the op has
        them at no cost; ``statistics`` are h's, where the convolution had them."""
        given = statistics if self.training else None
        if next_norm.training:
            y, statistics = ShakeDropTail.forward(self, h, x, given, next_norm)
            return y, statistics
        return ShakeDropTail.forward(self, h, x, given), None


class FusedPyramidBlock(Fused, PyramidBlock):
    """Each BN runs with the convolution after it, the last one in the tail. The first one's backward adds the gradient
    of the shortcut."""

    def adopt(self) -> None:
        last = self.branch[-1]
        last.__class__ = FusedTail
        assert isinstance(last, FusedTail)
        last.take_over(self.shakedrop)
        self.shakedrop = None

    def forward(  # type: ignore[override]
        self, x: Tensor, statistics: Tensor | None, next_norm: nn.BatchNorm2d
    ) -> tuple[Tensor, Tensor | None]:
        """``statistics`` are x's, where the block before had them; those of the result, which ``next_norm`` normalises,
        are returned with it."""
        layers: list[Any] = list(self.branch)
        *norms, tail = layers[::2]
        convs = layers[1::2]
        x, out, statistics = fork_norm_conv(x, norms[0], convs[0], statistics, layers[2])
        for norm, conv, inner in zip(norms[1:], convs[1:], layers[4::2], strict=True):
            out, statistics = norm_conv(out, norm, conv, statistics, inner)
        return tail(out, x, statistics, next_norm)


@fuses(PyramidBasicBlock)
class FusedPyramidBasicBlock(FusedPyramidBlock, PyramidBasicBlock):
    """Two convolutions."""


@fuses(PyramidBottleneck)
class FusedPyramidBottleneck(FusedPyramidBlock, PyramidBottleneck):
    """Three convolutions."""


@fuses(PyramidNet)
class FusedPyramidNet(Fused, PyramidNet):
    """The stem and its BN, and the last BN-ReLU and the pooling, are one op each."""

    conv1: FusedConv2d
    bn1: FusedNorm
    bn2: FusedNorm

    def forward(self, x: Tensor) -> Tensor:
        x, statistics = conv_norm(x, self.conv1, self.bn1), None
        groups: Any = self.groups
        blocks = [block for group in groups for block in group]
        next_norms = [*(block.branch[0] for block in blocks[1:]), self.bn2]
        for block, next_norm in zip(blocks, next_norms, strict=True):
            x, statistics = block(x, statistics, next_norm)
        return self.fc(self.bn2.global_avg_pool(x, statistics))
