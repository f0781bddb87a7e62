"""``GlobalAvgPoolAct2d``, the head of a residual network."""

from torch import Tensor

from ...batch_norm.batch_norm_act.module import BatchNormActBase
from .op import global_avg_pool_act


class GlobalAvgPoolAct2d(BatchNormActBase):
    """``act(BN(x))`` averaged over the image; replaces ``torch.nn.BatchNorm2d``, activation and pooling.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(x)`` takes [N, C, H, W] and
    returns [N, C]. See ``global_avg_pool_act`` for dtypes, layouts and errors.
    """

    def forward(self, x: Tensor) -> Tensor:
        return global_avg_pool_act(x, **self._arguments())
