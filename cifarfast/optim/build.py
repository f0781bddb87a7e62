"""torch.optim optimizers from a recipe, and their state as named tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from ..errors import UserError
from ..recipe import Recipe
from .segments import Segment


def build_optimizer(model: nn.Module, segments: Sequence[Segment], recipe: Recipe) -> optim.Optimizer:
    """Build the recipe's optimizer over the segments, one parameter group for each weight decay.

    The recipe must be resolved (``Recipe.resolved``): lr, momentum, eps and weight_decay are numbers.
    """
    parameters = dict(model.named_parameters())
    by_decay: dict[float, list[nn.Parameter]] = {}
    for segment in segments:
        by_decay.setdefault(segment.weight_decay, []).append(parameters[segment.name])
    groups: list[dict[str, Any]] = [{"params": p, "weight_decay": decay} for decay, p in by_decay.items()]
    if not groups:
        raise UserError("the model has no trainable parameters")
    assert recipe.lr is not None
    assert recipe.momentum is not None
    assert recipe.eps is not None
    lr = recipe.lr
    adam: dict[str, Any] = {"lr": lr, "betas": recipe.betas, "eps": recipe.eps}
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.nesterov and recipe.momentum > 0
            return optim.SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
        case "adam":
            return optim.Adam(groups, **adam, fused=True)
        case "adamw":
            return optim.AdamW(groups, **adam, fused=True)
        case "nadam":
            return optim.NAdam(groups, **adam)
        case "adamax":
            return optim.Adamax(groups, **adam)
        case "rmsprop":
            return optim.RMSprop(groups, lr=lr, alpha=recipe.rms_alpha, eps=recipe.eps, momentum=recipe.momentum)
        case "adagrad":
            return optim.Adagrad(groups, lr=lr, eps=recipe.eps)


def _named(optimizer: optim.Optimizer, model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter name → parameter for everything the optimizer updates, in its own order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: p for group in optimizer.param_groups for p in group["params"]}


def optimizer_tensors(optimizer: optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as ``<parameter name>/<state name>`` → tensor; plain numbers become 0-d float64."""
    tensors = {}
    for name, parameter in _named(optimizer, model).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensor = value if torch.is_tensor(value) else torch.tensor(value, dtype=torch.float64)
                tensors[f"{name}/{key}"] = tensor
    return tensors


def load_optimizer_tensors(optimizer: optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` returned, each tensor in its own dtype and memory format."""
    named = _named(optimizer, model)
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, state_name = key.rpartition("/")
        parameter = named[name]
        if tensor.shape == parameter.shape and tensor.ndim:
            value = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)  # keeps channels_last strides
        else:
            # step counters stay where the optimizer keeps them: with the parameter only when it is fused or capturable
            on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
            value = tensor.to(parameter.device if on_device else "cpu", copy=True)
        optimizer.state[parameter][state_name] = value
