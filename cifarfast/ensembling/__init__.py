"""Ensembles of finished runs: soft voting, stacking, and the ensemble as one model."""

from .combine import MetaLearner, WeightedVote, search_weights
from .folder import EnsembleClassifier, EnsembleRecord, load_model, read_record
from .make import make_ensemble
from .members import is_ensemble
from .settings import (
    OPTIMISTIC,
    EnsembleRecipe,
    EnsembleSettings,
    ensemble_recipe_names,
    load_ensemble_recipe,
    make_settings,
)

__all__ = [
    "OPTIMISTIC",
    "EnsembleClassifier",
    "EnsembleRecipe",
    "EnsembleRecord",
    "EnsembleSettings",
    "MetaLearner",
    "WeightedVote",
    "ensemble_recipe_names",
    "is_ensemble",
    "load_ensemble_recipe",
    "load_model",
    "make_ensemble",
    "make_settings",
    "read_record",
    "search_weights",
]
