"""``BNActConv2d``."""

from torch import Tensor

from ..module import ConvAndBatchNorm
from .op import bn_act_conv2d


class BNActConv2d(ConvAndBatchNorm):
    """``conv(act(BN(x)))``; replaces ``torch.nn.BatchNorm2d``, its activation and the ``Conv2d`` after them.

    ``forward(x, statistics=None)`` takes [N, C, H, W] and, where the op that made x has them, x's statistics.
    See ``ConvAndBatchNorm`` for the settings, ``bn_act_conv2d`` for dtypes, layouts and errors.
    """

    norm_first = True

    def forward(self, x: Tensor, statistics: Tensor | None = None) -> Tensor:
        arguments = self._arguments(x)
        y: Tensor = bn_act_conv2d(statistics=statistics if arguments["training"] else None, **arguments)
        return y
