"""``BatchNormAct2d``, and what it shares with the other modules that start with a batch norm."""

from typing import Any

import torch
from torch import Tensor, nn

from ...dropout.op import Dropout
from ..arguments import check_momentum, check_settings
from ..state import BatchNormState
from .op import batch_norm_act


class BatchNormActBase(nn.BatchNorm2d):
    """A ``torch.nn.BatchNorm2d`` (same parameters, buffers and ``state_dict``) that knows its activation.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: as in ``torch.nn.BatchNorm2d``.
        act: the activation's name, see ``batch_norm_act``.
        negative_slope: of leaky_relu.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        act: str = "relu",
        negative_slope: float = 0.01,
    ) -> None:
        check_momentum(momentum)
        check_settings(eps, act, negative_slope)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.act = act
        self.negative_slope = negative_slope

    def _arguments(self) -> dict[str, Any]:
        """The op's arguments other than x, by torch's rules for which statistics are used and updated."""
        return {
            **BatchNormState.of(self).arguments(),
            "weight": self.weight,
            "bias": self.bias,
            "training": self.training or self.running_mean is None,
            "act": self.act,
            "negative_slope": self.negative_slope,
        }

    def extra_repr(self) -> str:
        slope = f", negative_slope={self.negative_slope:g}" if self.act == "leaky_relu" else ""
        return f"{super().extra_repr()}, act={self.act!r}{slope}"


class BatchNormAct2d(BatchNormActBase):
    """``act(BN(x) [+ residual])``; replaces ``torch.nn.BatchNorm2d`` and the activation after it.

    ``forward(x, residual=None, dropout=None)`` takes and returns [N, C, H, W]; a ``Dropout`` module that is given drops
    elements of the result in the same pass. See ``batch_norm_act`` for dtypes, layouts and errors.
    """

    def forward(self, x: Tensor, residual: Tensor | None = None, dropout: Dropout | None = None) -> Tensor:
        dropping = {"dropout_p": dropout.p, **dropout.source()} if dropout is not None and dropout.drops else {}
        return batch_norm_act(x, residual=residual, **self._arguments(), **dropping)


class ForkBatchNormAct2d(BatchNormActBase):
    """x for the shortcut and ``act(BN(x))`` for the branch: ``batch_norm_act`` with ``return_input``.

    Parameters, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm2d``. ``forward(x)`` takes [N, C, H, W] and
    returns two of it.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return batch_norm_act(x, return_input=True, **self._arguments())
