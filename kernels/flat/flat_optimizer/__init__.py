"""Optimizer steps over one flat buffer: SGD, Adam, AdamW, NAdam, Adamax, RMSprop, Adagrad, each with EMA and copy."""

from .steps import (
    flat_adagrad_step,
    flat_adam_step,
    flat_adamax_step,
    flat_adamw_step,
    flat_nadam_step,
    flat_rmsprop_step,
    flat_sgd_step,
)

__all__ = [
    "flat_adagrad_step",
    "flat_adam_step",
    "flat_adamax_step",
    "flat_adamw_step",
    "flat_nadam_step",
    "flat_rmsprop_step",
    "flat_sgd_step",
]
