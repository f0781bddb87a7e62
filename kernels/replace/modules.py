"""The modules that ``replace_modules`` puts in: each keeps the parameters, buffers and names of what it replaces."""

from typing import Any

import torch
from torch import Tensor, nn

from ..batch_norm.batch_norm_act.module import BatchNormAct2d, BatchNormActBase
from ..convolution.conv2d_bn_act.op import conv2d_bn_act
from ..convolution.module import cast
from ..cross_entropy.op import cross_entropy


class FusedConv2d(nn.Conv2d):
    """A convolution that runs in the ``ConvBatchNormAct2d`` after it: it holds the weight and returns its input."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "FusedConv2d":
        """With the parameters of ``conv``."""
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
        new = cls(*sizes, bias=False, device="meta")  # type: ignore[arg-type]
        new.weight = conv.weight
        return new

    def forward(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, runs in the batch norm after it"


class ConvBatchNormAct2d(BatchNormActBase):
    """``act(BN(conv(x)) [+ residual])``: a batch norm that runs the ``FusedConv2d`` before it.

    It takes the convolution's input. Parameters and ``state_dict`` are those of ``torch.nn.BatchNorm2d``; the weight of
    the convolution stays where it was. Under autocast the convolution runs in autocast's dtype, as torch's does.
    """

    _conv: tuple[FusedConv2d]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        (conv,) = self._conv
        x, weight = cast(x), cast(conv.weight)
        if residual is not None:
            residual = residual.to(x.dtype)
        geometry: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding}
        return conv2d_bn_act(x, weight, residual=residual, **geometry, **self._arguments())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, with the convolution before it"


def batch_norm_of(
    kind: type[BatchNormActBase], bn: nn.BatchNorm2d, act: str, negative_slope: float, conv: FusedConv2d | None
) -> BatchNormActBase:
    """A ``kind`` with the parameters, buffers, and settings of ``bn``."""
    settings = (bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats)
    new = kind(*settings, device="meta", act=act, negative_slope=negative_slope)
    new.weight, new.bias = bn.weight, bn.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(bn, name))
    if isinstance(new, ConvBatchNormAct2d):
        assert conv is not None
        new._conv = (conv,)  # in a tuple, so that it is no submodule and the state_dict keeps its keys
    return new


class FusedCrossEntropyLoss(nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` with logits [N, C] through ``cross_entropy``; the loss is fp32 or fp64.

    Same settings and ``state_dict``. What ``cross_entropy`` does not take goes to torch: logits of another shape,
    labels of another type, soft labels that need a gradient.
    """

    @classmethod
    def of(cls, loss: nn.CrossEntropyLoss) -> "FusedCrossEntropyLoss":
        """With the settings and the weight of ``loss``."""
        return cls(loss.weight, None, loss.ignore_index, None, loss.reduction, loss.label_smoothing)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        soft = target.is_floating_point()
        if input.dim() != 2 or input.numel() == 0 or target.requires_grad or not (soft or target.dtype == torch.int64):
            return super().forward(input, target)
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class FusedTimmCrossEntropy(nn.Module):
    """timm's ``LabelSmoothingCrossEntropy`` or ``SoftTargetCrossEntropy`` through ``cross_entropy``; fp32 or fp64.

    What ``cross_entropy`` does not take goes to timm's, which it holds. Its label −100 is ignored.

    Args:
        loss: timm's.
        soft: whether it takes probabilities [N, C] instead of labels [N].
    """

    def __init__(self, loss: nn.Module, *, soft: bool) -> None:
        super().__init__()
        self.loss = loss
        self.soft = soft
        smoothing: Any = 0.0 if soft else loss.smoothing
        self.label_smoothing = float(smoothing)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        fits = x.shape == target.shape if self.soft else x.shape[:-1] == target.shape
        right_type = target.is_floating_point() if self.soft else target.dtype == torch.int64
        if not (fits and right_type) or x.dim() != 2 or x.numel() == 0 or target.requires_grad:
            out: Tensor = self.loss(x, target)
            return out
        return cross_entropy(x, target, label_smoothing=self.label_smoothing)


class ResidualBlock(nn.Module):
    """``act(BN(main(x)) + shortcut(x))`` with the last batch norm, the addition and the activation in one op.

    It takes the place of a residual block with its submodules and their names, so that ``state_dict`` has the same
    keys; its ``forward`` does what the block's did.

    Args:
        block: whose submodules it takes over.
        main: names of the modules from x to the last batch norm, without that, in order.
        last: name of the last batch norm, which takes a residual.
        shortcut: names of the modules that the shortcut goes through; none where it is x.
    """

    def __init__(self, block: nn.Module, main: tuple[str, ...], last: str, shortcut: tuple[str, ...]) -> None:
        super().__init__()
        # the same dict: whatever is replaced inside the block is replaced here
        self._modules = block._modules
        # names that no submodule has
        self._block_name = type(block).__name__
        self._main_path, self._last_name, self._shortcut_path = main, last, shortcut

    def forward(self, x: Tensor) -> Tensor:
        y, residual = x, x
        for name in self._main_path:
            y = self.get_submodule(name)(y)
        for name in self._shortcut_path:
            residual = self.get_submodule(name)(residual)
        last = self.get_submodule(self._last_name)
        if isinstance(last, BatchNormAct2d):
            residual = residual.to(y.dtype)
        return last(y, residual)

    def extra_repr(self) -> str:
        path = " → ".join([*self._main_path, self._last_name])
        return f"{self._block_name}: {path} + {' → '.join(self._shortcut_path) or 'x'}"
