"""``AddBatchNormAct2d``, what lies between two pre-activation blocks."""

from torch import Tensor

from ..batch_norm_act.module import BatchNormActBase
from .op import add_batch_norm_act


class AddBatchNormAct2d(BatchNormActBase):
    """``s = a + b`` and ``act(BN(s))``; replaces the sum, ``torch.nn.BatchNorm2d`` and the activation after it.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(a, b)`` takes two
    [N, C, H, W] and returns two. See ``add_batch_norm_act`` for dtypes, layouts and errors.
    """

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return add_batch_norm_act(a, b, **self._arguments())
