"""The sum that ends a pre-activation block, and the batch norm and activation that begin the next."""

from .module import AddBatchNormAct2d
from .op import add_batch_norm_act

__all__ = ["AddBatchNormAct2d", "add_batch_norm_act"]
