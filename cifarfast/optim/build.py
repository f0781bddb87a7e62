"""Flat parameters from a model and a recipe."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import UserError
from ..recipes.recipe import Recipe
from .flat import FlatParameters
from .segments import Region, freeze, segment_table


def flat_parameters(
    model: nn.Module,
    recipe: Recipe,
    *,
    compute_dtype: torch.dtype = torch.float32,
    true_shapes: Mapping[str, torch.Size] | None = None,
) -> FlatParameters:
    """Freeze what the recipe freezes and make the rest of the model's parameters flat, with the recipe's settings.

    Raises:
        UserError: nothing is left to train, a setting names a layer that is not there, or settings exclude each other.
    """
    assert recipe.lr is not None
    freeze(model, recipe.lr_scale)
    muon = recipe.optimizer == "muon"
    if muon and recipe.l2:
        raise UserError("l2 cannot be used with muon, whose steps do not depend on the gradient's length")
    segments = segment_table(
        model,
        weight_decay=recipe.weight_decay or 0.0,
        decay_norm_and_bias=recipe.decay_norm_and_bias,
        l2=recipe.l2,
        lr_scale=recipe.lr_scale,
        muon=muon,
    )
    if muon:
        rest = recipe.muon_rest_lr / recipe.lr
        segments = [
            s if s.region == Region.ORTHOGONAL else dataclasses.replace(s, lr_scale=s.lr_scale * rest) for s in segments
        ]
    return FlatParameters(
        model,
        segments,
        compute_dtype=compute_dtype,
        separate=recipe.sam != "none",
        true_shapes=true_shapes,
    )
