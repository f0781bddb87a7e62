"""Sizes of models: parameters, buffers, multiply-accumulates, and a table of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from .create import create_model
from .external import is_external
from .registry import find_entry


@dataclass(frozen=True)
class ModelInfo:
    """Size of a model.

    Attributes:
        name: what ``create_model`` takes.
        parameters: trainable scalars.
        buffers: scalars of batch norm's running means and variances.
        macs: multiply-accumulates of convolutions and matrix products for one image.
        description: one line.
    """

    name: str
    parameters: int
    buffers: int
    macs: int
    description: str


def model_info(name: str, **settings: Any) -> ModelInfo:
    """Size of ``create_model(name, **settings)``, counted on the meta device: no memory, no arithmetic."""
    model = meta_model(name, **settings)
    library, _, model_name = name.partition(":")
    description = f"{model_name} of {library}" if is_external(name) else find_entry(name).description
    return ModelInfo(
        name=name,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        buffers=count_running_statistics(model),
        macs=count_macs(model, settings.get("in_channels", 3), settings.get("image_size", 32)),
        description=description,
    )


def meta_model(name: str, **settings: Any) -> nn.Module:
    """``create_model(name, **settings)`` on the meta device."""
    if is_external(name):
        return create_model(name, **settings).to("meta")
    with torch.device("meta"):
        return create_model(name, **settings)


def count_running_statistics(model: nn.Module) -> int:
    """Scalars in the running means and variances of all batch norms (not the counts of batches seen)."""
    return sum(
        statistic.numel()
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    )


def count_macs(model: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-accumulates for one image: half of the FLOPs torch counts in a forward pass of a model on meta."""
    image = torch.empty(1, in_channels, image_size, image_size, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(image)
    return counter.get_total_flops() // 2


def format_table(infos: Iterable[ModelInfo]) -> str:
    """An aligned text table with a row for each model: name, parameters, MACs, description."""
    header = ("name", "parameters", "MACs", "description")
    rows = [(info.name, f"{info.parameters:,}", f"{info.macs:,}", info.description) for info in infos]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {macs:>{widths[2]}}  {description}"
        for name, parameters, macs, description in (header, *rows)
    ]
    return "\n".join(lines)
