"""PyramidNet on fused ops: widths stored in multiples of 8, batch norm, ShakeDrop and shortcut as one op.

Padded channels are zero from end to end. Their weights are, so convolutions and batch norms make zeros of zeros, both
ways. One gradient would not be zero: the shortcut hands a block the gradient of channels that a later, wider block
uses and that are padding in this one, and the bias of the block's last batch norm would gather it. ``hold_zero`` keeps
it out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cifarfast.kernels import ShakeDrop, ShakeDropTail, shakedrop_bn_shortcut

from ..pyramidnet import PyramidBasicBlock, PyramidBlock, PyramidBottleneck, PyramidNet
from .layers import FusedConv2d, FusedNorm, conv_norm, fork_norm_conv, norm_conv, norm_conv_stats
from .padding import Fused
from .switch import fuses


class FusedTail(Fused, ShakeDropTail):
    """The last batch norm of a branch, ShakeDrop and the shortcut: ``shortcut(x) + k · BN(h)``."""

    num_features: int
    bias: Tensor

    def take_over(self, shakedrop: ShakeDrop | None) -> None:
        """Become the tail of a block that has this ShakeDrop, or none."""
        shakedrop = ShakeDrop(1.0) if shakedrop is None else shakedrop
        for name in ("keep_probability", "level", "keep_level", "seed", "step", "indices", "layer"):
            setattr(self, name, getattr(shakedrop, name))

    def forward(self, h: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        """``bias`` is the module's own, with the gradient of its padding held at zero."""
        # as in BatchNorm2d, training leaves buffers alone that are not tracked
        updates = self.training and self.track_running_stats
        reads = updates or not self.training
        return shakedrop_bn_shortcut(
            h,
            x,
            self.running_mean if reads else None,
            self.running_var if reads else None,
            self.weight,
            bias,
            num_batches_tracked=self.num_batches_tracked if updates else None,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            **ShakeDropTail._scale_arguments(self),
        )


class FusedPyramidBlock(Fused, PyramidBlock):
    """Each BN runs with the convolution after it, the last one in the tail. The first one's backward adds the gradient
    of the shortcut."""

    def adopt(self) -> None:
        last = self.branch[-1]
        last.__class__ = FusedTail
        assert isinstance(last, FusedTail)
        last.take_over(self.shakedrop)
        self.shakedrop = None

    @property
    def tail(self) -> FusedTail:
        """The last batch norm and what follows it."""
        last: Any = self.branch[-1]
        return last

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """``bias`` is what ``hold_zero`` made of the tail's."""
        layers: list[Any] = list(self.branch)
        first_norm, first_conv, *layers, last_norm, last_conv, tail = layers
        x, out, statistics = fork_norm_conv(x, first_norm, first_conv)
        for norm, conv in zip(layers[::2], layers[1::2], strict=True):
            out, statistics = norm_conv_stats(out, norm, conv, statistics)
        return tail(norm_conv(out, last_norm, last_conv, statistics), x, bias)


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
    tail_mask: Tensor

    def adopt(self) -> None:
        tails = [block.tail for block in self.blocks()]
        masks = [torch.ones_like(tail.bias) for tail in tails]
        for tail, mask in zip(tails, masks, strict=True):
            mask[tail.num_features :] = 0
        self.register_buffer("tail_mask", torch.cat(masks), persistent=False)

    def blocks(self) -> list[FusedPyramidBlock]:
        """All blocks in order."""
        groups: Any = self.groups
        return [block for group in groups for block in group]

    def forward(self, x: Tensor) -> Tensor:
        x = conv_norm(x, self.conv1, self.bn1)
        blocks = self.blocks()
        biases = hold_zero([block.tail.bias for block in blocks], self.tail_mask)
        for block, bias in zip(blocks, biases, strict=True):
            x = block(x, bias)
        return self.fc(self.bn2.global_avg_pool(x))


def hold_zero(vectors: Sequence[Tensor], mask: Tensor) -> Sequence[Tensor]:
    """The same vectors, whose gradients are zero where ``mask`` (of their total length, ones and zeros) is.

    One function for all of them, so that the backward is one or two kernels and not one a vector.
    """
    return _HoldZero.apply(mask, *vectors)


class _HoldZero(torch.autograd.Function):
    @staticmethod
    def forward(mask: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        return tuple(vector.view_as(vector) for vector in vectors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        mask, *vectors = inputs
        ctx.save_for_backward(mask)
        ctx.lengths = [len(vector) for vector in vectors]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return None, *torch._foreach_mul(grads, mask.split(ctx.lengths))
