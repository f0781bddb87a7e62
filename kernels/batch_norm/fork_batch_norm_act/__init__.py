"""Batch norm and activation of a tensor that something else reads too, with one gradient pass for both."""

from .module import ForkBatchNormAct2d
from .op import fork_batch_norm_act

__all__ = ["ForkBatchNormAct2d", "fork_batch_norm_act"]
