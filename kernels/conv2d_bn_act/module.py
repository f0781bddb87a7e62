"""``ConvBNAct2d``."""

from torch import Tensor

from ..conv_bn_act.module import ConvAndBatchNorm
from .op import conv2d_bn_act


class ConvBNAct2d(ConvAndBatchNorm):
    """``act(BN(conv(x)))``; replaces ``torch.nn.Conv2d``, the ``BatchNorm2d`` after it and its activation.

    ``forward(x)`` takes [N, C, H, W]. See ``ConvAndBatchNorm`` for the settings, ``conv2d_bn_act`` for dtypes, layouts
    and errors.
    """

    norm_first = False

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_bn_act(x, **self._arguments())
