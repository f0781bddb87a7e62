"""ShakeDrop: a residual sum whose branch is scaled at random, differently forward and backward."""

from .draws import linear_keep_probability
from .module import ShakeDrop
from .op import shakedrop

__all__ = ["ShakeDrop", "linear_keep_probability", "shakedrop"]
