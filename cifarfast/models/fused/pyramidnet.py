"""PyramidNet on fused ops: widths stored in multiples of 8, batch norm, ShakeDrop and shortcut as one op.

Padded channels are zero from end to end. Their weights are, so convolutions and batch norms make zeros of zeros, both
ways. One gradient would not be zero: the shortcut hands a block the gradient of channels that a later, wider block
uses and that are padding in this one, and the bias of the block's last batch norm would gather it. The tail knows how
many of its channels are true, and leaves it out.
"""

from typing import Any

import torch
from torch import Tensor

from cifarfast.kernels import ShakeDrop, ShakeDropTail, shakedrop_bn_shortcut, shakedrop_bn_shortcut_stats
from cifarfast.kernels.shakedrop_bn_shortcut.op import finds_statistics

from ..pyramidnet import PyramidBasicBlock, PyramidBlock, PyramidBottleneck, PyramidNet
from .layers import FusedConv2d, FusedNorm, Statistics, conv_norm, fork_norm_conv, norm_conv_stats
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

    def forward(self, h: Tensor, x: Tensor, statistics: Statistics | None) -> tuple[Tensor, Statistics | None]:
        """The result, and its statistics where training wants them and the op has them at no cost; ``statistics`` are
        h's, where the convolution had them."""
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
        if not self.training or not (torch.compiler.is_compiling() or finds_statistics(h)):
            return shakedrop_bn_shortcut(h, x, **arguments), None
        y, mean, var = shakedrop_bn_shortcut_stats(h, x, **arguments)
        return y, (mean, var)


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
        self, x: Tensor, statistics: Statistics | None
    ) -> tuple[Tensor, Statistics | None]:
        """``statistics`` are x's, where the block before had them; those of the result are returned with it."""
        layers: list[Any] = list(self.branch)
        first_norm, first_conv, *layers, tail = layers
        x, out, statistics = fork_norm_conv(x, first_norm, first_conv, statistics)
        for norm, conv in zip(layers[::2], layers[1::2], strict=True):
            out, statistics = norm_conv_stats(out, norm, conv, statistics)
        return tail(out, x, statistics)


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
        for block in (block for group in groups for block in group):
            x, statistics = block(x, statistics)
        return self.fc(self.bn2.global_avg_pool(x, statistics))
