"""Batch norm, activation and 2×2 max-pooling."""

from .module import MaxPoolBatchNormAct2d
from .op import max_pool_bn_act

__all__ = ["MaxPoolBatchNormAct2d", "max_pool_bn_act"]
