"""Batch norm, activation and the mean over the image."""

from .module import GlobalAvgPoolAct2d
from .op import global_avg_pool_act

__all__ = ["GlobalAvgPoolAct2d", "global_avg_pool_act"]
