"""Batch norm with residual and activation, training and eval."""

from .module import BatchNormAct2d, ForkBatchNormAct2d
from .op import batch_norm_act

__all__ = ["BatchNormAct2d", "ForkBatchNormAct2d", "batch_norm_act"]
