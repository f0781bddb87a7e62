"""Optimizers, learning-rate schedules and the flat order of parameters."""

from .build import build_optimizer, load_optimizer_tensors, optimizer_tensors
from .ema import ExponentialMovingAverage
from .schedule import LearningRate
from .segments import Segment, add_l2_gradients, segment_table

__all__ = [
    "ExponentialMovingAverage",
    "LearningRate",
    "Segment",
    "add_l2_gradients",
    "build_optimizer",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "segment_table",
]
