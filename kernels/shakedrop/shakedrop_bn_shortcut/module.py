"""The fused tail of a PyramidNet block as a module."""

from typing import Any

from torch import Tensor, nn

from ...batch_norm.state import BatchNormState
from ..module import RandomScale
from .op import shakedrop_bn_shortcut


class ShakeDropTail(RandomScale, nn.BatchNorm2d):
    """``shakedrop_bn_shortcut`` as a module: a ``BatchNorm2d`` that takes ``(h, x)``, with the same ``state_dict``, and
    the function's ``statistics`` and ``next_norm``.

    With the default ``keep_probability`` of 1 it is the tail of a PyramidNet without ShakeDrop.

    Args:
        num_features: C of h.
        keep_probability: p; ``linear_keep_probability`` gives it for a block of a network.
        level, keep_level: see ``shakedrop``.
        settings: eps, momentum, affine, track_running_stats, device, dtype, as in ``torch.nn.BatchNorm2d``.

    Raises:
        ValueError: a setting that is not allowed; see ``shakedrop_bn_shortcut`` for the call.
    """

    true_channels: int | None = None

    def __init__(
        self,
        num_features: int,
        keep_probability: float = 1.0,
        *,
        level: str = "image",
        keep_level: str = "image",
        **settings: Any,
    ) -> None:
        super().__init__(
            num_features, keep_probability=keep_probability, level=level, keep_level=keep_level, **settings
        )

    def forward(  # type: ignore[override]
        self, h: Tensor, x: Tensor, statistics: Tensor | None = None, next_norm: nn.BatchNorm2d | None = None
    ) -> Any:
        return shakedrop_bn_shortcut(
            h,
            x,
            **BatchNormState.of(self).arguments(),
            weight=self.weight,
            bias=self.bias,
            training=self.training,
            true_channels=self.true_channels,
            statistics=statistics,
            next_norm=next_norm,
            **self._scale_arguments(),
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self._scale_repr()}"
