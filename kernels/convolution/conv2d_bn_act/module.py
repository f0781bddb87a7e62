"""``ConvBNAct2d``."""

from torch import Tensor

from ..autocast import cast
from ..module import ConvAndBatchNorm
from .op import conv2d_bn_act


class ConvBNAct2d(ConvAndBatchNorm):
    """``act(BN(conv(x)) [+ residual])``; replaces ``torch.nn.Conv2d``, the ``BatchNorm2d`` after it and its activation.

    ``forward(x, residual=None)`` takes [N, C, H, W] and a residual of the result's shape. See ``ConvAndBatchNorm`` for
    the settings, ``conv2d_bn_act`` for dtypes, layouts and errors.
    """

    norm_first = False

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return conv2d_bn_act(residual=residual if residual is None else cast(residual), **self._arguments(x))
