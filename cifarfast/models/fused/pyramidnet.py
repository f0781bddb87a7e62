"""PyramidNet on fused ops: widths stored in multiples of 8, batch norm, ShakeDrop and shortcut as one op.

Padded channels are zero from end to end. Their weights are, so convolutions and batch norms make zeros of zeros, both
ways. One gradient would not be zero: the shortcut hands a block the gradient of channels that a later, wider block
uses and that are padding in this one, and the bias of the block's last batch norm would gather it. The tail knows how
many of its channels are true, and leaves it out.
"""

from typing import Any

from torch import Tensor, nn

from cifarfast.kernels import ShakeDrop, ShakeDropTail, shakedrop_bn_shortcut, shakedrop_bn_shortcut_for_norm
from cifarfast.kernels.batch_norm.state import Statistics

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

    def forward(
        self, h: Tensor, x: Tensor, statistics: Statistics | None, then: nn.BatchNorm2d
    ) -> tuple[Tensor, Statistics | None]:
        """The result, and its statistics where ``then``, the batch norm after it, is in training and the op has them at
        no cost; ``statistics`` are h's, where the convolution had them."""
        # as in BatchNorm2d, training leaves buffers alone that are not tracked
        updates = self.training and self.track_running_stats
        reads = updates or not self.training
        arguments: dict[str, Any] = {
            "running_mean": self.running_mean if reads else None,
            "running_var": self.running_var if reads else None,
            "weight": self.weight,
            "bias": self.bias,
            "num_batches_tracked": self.num_batches_tracked if updates else None,
            "training": self.training,
            "momentum": self.momentum,
            "eps": self.eps,
            "true_channels": self.num_features,
            "statistics": statistics if self.training else None,
            **ShakeDropTail._scale_arguments(self),
        }
        if not then.training:
            return shakedrop_bn_shortcut(h, x, **arguments), None
        return shakedrop_bn_shortcut_for_norm(h, x, next_norm=then, **arguments)


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
        self, x: Tensor, statistics: Statistics | None, then: nn.BatchNorm2d
    ) -> tuple[Tensor, Statistics | None]:
        """``statistics`` are x's, where the block before had them; those of the result, which ``then`` normalises, are
        returned with it."""
        layers: list[Any] = list(self.branch)
        *norms, tail = layers[::2]
        convs = layers[1::2]
        x, out, statistics = fork_norm_conv(x, norms[0], convs[0], statistics, layers[2])
        for norm, conv, next_norm in zip(norms[1:], convs[1:], layers[4::2], strict=True):
            out, statistics = norm_conv(out, norm, conv, statistics, next_norm)
        return tail(out, x, statistics, then)


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
        for block, then in zip(blocks, next_norms, strict=True):
            x, statistics = block(x, statistics, then)
        return self.fc(self.bn2.global_avg_pool(x, statistics))
