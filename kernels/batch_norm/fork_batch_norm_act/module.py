"""``ForkBatchNormAct2d``, the first batch norm of a pre-activation block."""

from torch import Tensor

from ..batch_norm_act.module import BatchNormActBase
from .op import fork_batch_norm_act


class ForkBatchNormAct2d(BatchNormActBase):
    """x for the shortcut and ``act(BN(x))`` for the branch; replaces ``torch.nn.BatchNorm2d`` and its activation.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(x)`` takes [N, C, H, W] and
    returns two of it. See ``fork_batch_norm_act`` for dtypes, layouts and errors.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return fork_batch_norm_act(x, **self._arguments())
