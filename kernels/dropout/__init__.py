"""Dropout whose draws are a function of seed, step, layer and sample."""

from .module import Dropout
from .op import dropout

__all__ = ["Dropout", "dropout"]
