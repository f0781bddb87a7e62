"""The recipe's optimizer over flat buffers: one pass updates weights, state, averaged weights and compute copy."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cifarfast.kernels import (
    FlatScalar,
    flat_adagrad_step,
    flat_adam_step,
    flat_adamax_step,
    flat_clip,
    flat_ema,
    flat_lookahead,
    flat_nadam_step,
    flat_rmsprop_step,
    flat_scalars,
    flat_sgd_step,
)

from ..recipes.recipe import Recipe
from .flat import FlatParameters
from .muon import Muon


class FlatOptimizer:
    """torch.optim's optimizers by name, Muon, gradient clipping, Lookahead and the average of the weights.

    The recipe must be resolved (``Recipe.resolved``): lr, momentum, eps and weight_decay are numbers.

    Attributes:
        scalars: fp64 numbers on the device, indexed by ``FlatScalar``; the caller sets the first five before a step.
        states: state name, as torch.optim has it, → buffer of the master's length.

    Args:
        flat: the parameters and their gradients.
        ema: buffer of the master's length that follows the weights with the decay ``FlatScalar.EMA_DECAY``, or None.
    """

    def __init__(self, flat: FlatParameters, recipe: Recipe, *, ema: Tensor | None = None) -> None:
        self.flat, self.recipe, self.ema = flat, recipe, ema
        assert recipe.lr is not None
        self.scalars = flat_scalars(lr=recipe.lr, ema_decay=recipe.ema_decay, device=flat.master.device)
        # both become 1 when a step is skipped
        self._held = self.scalars[FlatScalar.EMA_DECAY : FlatScalar.SKIP + 1 : FlatScalar.SKIP - FlatScalar.EMA_DECAY]
        self.states: dict[str, Tensor] = {}
        # Lookahead changes the weights after the step, so their average moves after that
        self._average_in_step = None if recipe.lookahead_every else ema
        self._update = self._build()
        if recipe.lookahead_every:
            self.states["slow"] = flat.master.clone()

    def _state(self, name: str) -> Tensor:
        self.states[name] = torch.zeros_like(self.flat.master)
        return self.states[name]

    def _build(self) -> Callable[[], None]:
        flat, recipe = self.flat, self.recipe
        assert recipe.momentum is not None
        assert recipe.eps is not None
        momentum, eps, betas, decoupled = recipe.momentum, recipe.eps, recipe.betas, recipe.decoupled_weight_decay
        shared = (flat.table, self.scalars, self._average_in_step, flat.copy)
        weights = (flat.master, flat.grad)
        buffer = self._state("momentum_buffer") if momentum and recipe.optimizer in ("sgd", "rmsprop", "muon") else None
        match recipe.optimizer:
            case "sgd":
                settings: dict[str, Any] = {
                    "momentum": momentum,
                    "nesterov": recipe.nesterov and momentum > 0,
                    "decoupled": decoupled,
                }
                return lambda: flat_sgd_step(*weights, buffer, *shared, **settings)
            case "adam" | "adamw":
                m, v = self._state("exp_avg"), self._state("exp_avg_sq")
                decoupled = decoupled or recipe.optimizer == "adamw"
                return lambda: flat_adam_step(*weights, m, v, *shared, betas=betas, eps=eps, decoupled=decoupled)
            case "nadam":
                m, v = self._state("exp_avg"), self._state("exp_avg_sq")
                return lambda: flat_nadam_step(*weights, m, v, *shared, betas=betas, eps=eps, decoupled=decoupled)
            case "adamax":
                m, v = self._state("exp_avg"), self._state("exp_inf")
                return lambda: flat_adamax_step(*weights, m, v, *shared, betas=betas, eps=eps)
            case "rmsprop":
                v, alpha = self._state("square_avg"), recipe.rms_alpha
                return lambda: flat_rmsprop_step(*weights, v, buffer, *shared, alpha=alpha, eps=eps, momentum=momentum)
            case "adagrad":
                v = self._state("sum")
                return lambda: flat_adagrad_step(*weights, v, *shared, eps=eps)
            case "muon":
                return Muon(
                    flat, self.scalars, buffer, self._average_in_step, momentum=momentum, steps=recipe.muon_steps
                ).update

    def clip(self) -> Tensor:
        """Have the next step clip its gradient if the recipe does; the gradient's norm, 0-d."""
        if self.recipe.clip_norm:
            return flat_clip(self.flat.grad, self.scalars, self.recipe.clip_norm, self.flat.table)
        return self.flat.grad_norm()

    def step(self) -> None:
        """One step from ``flat.grad``; where the scalar ``SKIP`` is not 0 nothing but the compute copy changes."""
        flat, recipe = self.flat, self.recipe
        self._update()
        if recipe.lookahead_every:
            flat_lookahead(
                *(flat.master, self.states["slow"], self.scalars, flat.copy),
                alpha=recipe.lookahead_alpha,
                every=recipe.lookahead_every,
            )
            if self.ema is not None:
                flat_ema(self.ema, flat.master, self.scalars)
        flat.refresh_full()

    def tensors(self) -> dict[str, Tensor]:
        """The state as ``<parameter name>/<state name>`` → tensor of the parameter's true shape, and ``scalars``."""
        named = {
            f"{parameter}/{state}": view
            for state, buffer in self.states.items()
            for parameter, view in self.flat.true_views(buffer).items()
        }
        return named | {"scalars": self.scalars}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what ``tensors`` returned.

        Raises:
            KeyError: it is of another optimizer or model.
            RuntimeError: a tensor has another shape or number type.
        """
        ours = self.tensors()
        if tensors.keys() != ours.keys():
            raise KeyError(f"optimizer state {sorted(tensors.keys() ^ ours.keys())[0]}")
        for name, tensor in ours.items():
            if tensor.shape != tensors[name].shape:
                shapes = f"{list(tensors[name].shape)}, here {list(tensor.shape)}"
                raise RuntimeError(f"optimizer state {name} has shape {shapes}")
            if tensor.dtype != tensors[name].dtype:
                raise RuntimeError(f"optimizer state {name} is of {tensors[name].dtype}, here {tensor.dtype}")
            tensor.copy_(tensors[name])

    def skip(self, where: Tensor) -> None:
        """Let the next step change nothing where the 0-d bool is true; ``SKIP`` is 0 or 1 and stays 1 where it was."""
        torch.maximum(self._held, where, out=self._held)
