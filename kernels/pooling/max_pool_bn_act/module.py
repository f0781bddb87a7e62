"""``MaxPoolBatchNormAct2d``: batch norm, activation and 2×2 max-pooling as a module."""

from torch import Tensor

from ...batch_norm.batch_norm_act.module import BatchNormActBase
from .op import max_pool_bn_act


class MaxPoolBatchNormAct2d(BatchNormActBase):
    """2×2 maxima of ``act(BN(x))``; replaces ``torch.nn.BatchNorm2d``, activation and pooling.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(x)`` takes [N, C, H, W] and
    returns [N, C, H // 2, W // 2]. See ``max_pool_bn_act`` for dtypes, layouts and errors.
    """

    def forward(self, x: Tensor) -> Tensor:
        return max_pool_bn_act(x, **self._arguments())
