"""The layers of fused models, and the functions that run neighbours of them as one op."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarfast.kernels import (
    BatchNormAct2d,
    add_batch_norm_act,
    batch_norm_act,
    bn_act_conv2d,
    conv2d,
    conv2d_bn_act,
    global_avg_pool_act,
    max_pool_bn_act,
)
from cifarfast.kernels.convolution.arguments import convolution_backend

from ..layers import BatchNormReLU2d
from .padding import Fused, stored_width
from .switch import fuses

Terms = tuple[Tensor, Tensor]
"""Branch and shortcut of a block, whose sum is left to the batch norm after them."""


@fuses(nn.Conv2d)
class FusedConv2d(Fused, nn.Conv2d):
    """A convolution with channels stored in multiples of 8, the image's too.

    It computes in x's dtype, under autocast in autocast's, whatever the weight's is; an x with the true number of
    channels gets those that are stored beyond it, of zeros.
    """

    def adopt(self) -> None:
        if self.groups == 1:
            out_channels, in_channels, *kernel_size = self.weight.shape
            self.store_padded("weight", stored_width(out_channels), stored_width(in_channels), *kernel_size)
            self.store_padded("bias", stored_width(out_channels))

    @property
    def fits_ops(self) -> bool:
        """Whether the convolution ops can take it."""
        known_size = self.kernel_size in ((1, 1), (3, 3)) and self.stride in ((1, 1), (2, 2))
        plain = self.groups == 1 and self.bias is None and self.dilation == (1, 1) and self.padding_mode == "zeros"
        return known_size and plain

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x and the weight in the dtype to compute in, x with all stored channels."""
        missing = self.weight.shape[1] * self.groups - self.in_channels
        if missing and x.shape[1] == self.in_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, missing))
        device, dtype = x.device.type, x.dtype
        if not x.is_meta and torch.is_autocast_enabled(device):  # there is no autocast for meta
            dtype = torch.get_autocast_dtype(device)
        return x.to(dtype), self.weight.to(dtype)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """torch's convolution of what ``operands`` returned."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        return self.convolve(*self.operands(input))


@fuses(nn.Linear)
class FusedLinear(Fused, nn.Linear):
    """A dense layer that reads padded features and computes in their dtype."""

    def adopt(self) -> None:
        self.store_padded("weight", self.out_features, stored_width(self.in_features))

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype), None if self.bias is None else self.bias.to(input.dtype))


@fuses(nn.BatchNorm2d)
class FusedNorm(Fused, BatchNormAct2d):
    """``act(BN(x) [+ residual])``; channels that are padding stay zero, for their weight and bias are."""

    num_features: int
    act = "identity"
    negative_slope = 0.01

    def adopt(self) -> None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.store_padded(name, stored_width(self.num_features))

    def arguments(self) -> dict[str, Any]:
        """What the ops that begin or end with a batch norm take of it."""
        arguments: dict[str, Any] = BatchNormAct2d._arguments(self)
        return arguments

    def fork(self, x: Tensor | Terms, statistics: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x, or the sum of its terms, for all who read it beside this batch norm; ``act(BN(x))``.

        ``statistics`` are those of a tensor x, where the op that made it had them; in eval they are not used.
        """
        if isinstance(x, Tensor):
            forked, y = batch_norm_act(x, return_input=True, **self.with_statistics(statistics))
            return forked, y
        return add_batch_norm_act(*x, **self.arguments())

    def global_avg_pool(self, x: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Mean of ``act(BN(x))`` over the image, [N, C]; ``statistics`` as in ``fork``."""
        return global_avg_pool_act(x, **self.with_statistics(statistics))

    def with_statistics(self, statistics: Tensor | None) -> dict[str, Any]:
        """``arguments``, with the statistics of x where training has a use for them."""
        arguments = self.arguments()
        return {**arguments, "statistics": statistics if arguments["training"] else None}

    def max_pool(self, x: Tensor, *, ceil_mode: bool = False) -> Tensor:
        """Maxima of ``act(BN(x))`` over 2×2 pixels; ``ceil_mode``: an odd side rounds up."""
        if ceil_mode and (x.shape[2] % 2 or x.shape[3] % 2):
            return F.max_pool2d(self(x), 2, ceil_mode=True)
        return max_pool_bn_act(x, **self.arguments())


@fuses(BatchNormReLU2d)
class FusedNormReLU(FusedNorm):
    """``relu(BN(x))``."""

    act = "relu"


def conv_norm(x: Tensor, conv: FusedConv2d, norm: FusedNorm) -> Tensor:
    """``act(BN(conv(x)))``."""
    x, weight = conv.operands(x)
    if not _has_kernel("conv2d_bn_act", x, weight, conv):
        return norm(conv.convolve(x, weight))
    return conv2d_bn_act(x, weight, stride=conv.stride, padding=conv.padding, **norm.arguments())


def norm_conv(
    x: Tensor,
    norm: FusedNorm,
    conv: FusedConv2d,
    statistics: Tensor | None = None,
    next_norm: nn.BatchNorm2d | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``conv(act(BN(x)))``, and its statistics where ``next_norm``, the batch norm after it, is in training and the op
    has them at no cost; ``statistics`` are those of x, where the op that made x had them."""
    x, weight = conv.operands(x)
    if not _has_kernel("bn_act_conv2d", x, weight, conv):
        activated = norm(x) if statistics is None else norm.fork(x, statistics)[1]
        return conv.convolve(activated, weight), None
    settings = {"stride": conv.stride, "padding": conv.padding, **norm.with_statistics(statistics)}
    if next_norm is None or not next_norm.training:
        return bn_act_conv2d(x, weight, **settings), None
    y, statistics = bn_act_conv2d(x, weight, **settings, next_norm=next_norm)
    return y, statistics


def fork_norm_conv(
    x: Tensor | Terms,
    norm: FusedNorm,
    conv: FusedConv2d,
    statistics: Tensor | None = None,
    next_norm: nn.BatchNorm2d | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, or the sum of its terms, for the shortcut; then what ``norm_conv`` returns. Terms have no ``statistics``."""
    a = x if isinstance(x, Tensor) else x[0]
    if not _has_kernel("bn_act_conv2d", a, conv.weight, conv):
        x, y = norm.fork(x, statistics)
        return x, conv(y), None
    settings = {"stride": conv.stride, "padding": conv.padding, **norm.with_statistics(statistics)}
    shortcut, weight = conv.operands(added(x))
    if next_norm is not None and next_norm.training:
        shortcut, y, statistics = bn_act_conv2d(shortcut, weight, **settings, next_norm=next_norm, return_input=True)
        return shortcut, y, statistics
    if not settings["training"]:
        return shortcut, bn_act_conv2d(shortcut, weight, **settings), None
    shortcut, y = bn_act_conv2d(shortcut, weight, **settings, return_input=True)
    return shortcut, y, None


def added(x: Tensor | Terms) -> Tensor:
    """The sum of terms; a tensor as it is."""
    return x if isinstance(x, Tensor) else x[0] + x[1]


def conv_stats(x: Tensor, conv: FusedConv2d, next_norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor | None]:
    """``conv(x)``, and its statistics where ``next_norm``, the batch norm after it, is in training and the op has them
    at no cost."""
    x, weight = conv.operands(x)
    if not next_norm.training or not _has_kernel("conv2d", x, weight, conv):
        return conv.convolve(x, weight), None
    y, statistics = conv2d(x, weight, stride=conv.stride, padding=conv.padding, next_norm=next_norm)
    return y, statistics


def _has_kernel(op: str, x: Tensor, weight: Tensor, conv: FusedConv2d) -> bool:
    """Whether ``op`` has a kernel of its own for this convolution.

    Where it would call the library, its parts are called instead: their backward reads the activated map that the op's
    would compute again. While torch.compile traces, the choice is left to the op.
    """
    if not conv.fits_ops:
        return False
    return torch.compiler.is_compiling() or convolution_backend(op, x, weight) != "torch"
