"""The exponential moving average of a flat buffer."""

from .op import flat_ema

__all__ = ["flat_ema"]
