"""What ``import cifarfast`` gives: ``train``, ``load``, ``Run``."""

from .loaded_model import LoadedModel
from .loading import load
from .run import Predictions, Run
from .training import train

__all__ = ["LoadedModel", "Predictions", "Run", "load", "train"]
