"""Flat parameters, the optimizers on them, averaged weights, SAM, and learning-rate schedules."""

from .build import flat_parameters
from .ema import ExponentialMovingAverage, ema_decay_at
from .flat import FlatParameters, FlatStatistics
from .optimizer import FlatOptimizer
from .schedule import LearningRate
from .segments import Region, Segment, segment_table
from .sharpness import Sharpness, unmoved_statistics

__all__ = [
    "ExponentialMovingAverage",
    "FlatOptimizer",
    "FlatParameters",
    "FlatStatistics",
    "LearningRate",
    "Region",
    "Segment",
    "Sharpness",
    "ema_decay_at",
    "flat_parameters",
    "segment_table",
    "unmoved_statistics",
]
