"""Fused training ops that replace torch's.

Imported as ``cifarfast.kernels``. Needs torch; on a GPU triton makes it fast. Nothing else of cifarfast is imported.
"""

from .cross_entropy import CrossEntropyLoss, cross_entropy
from .shakedrop import ShakeDrop, linear_keep_probability, shakedrop, share_randomness

__all__ = [
    "CrossEntropyLoss",
    "ShakeDrop",
    "cross_entropy",
    "linear_keep_probability",
    "shakedrop",
    "share_randomness",
]
