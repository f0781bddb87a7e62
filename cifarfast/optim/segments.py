"""The segment table: every trainable parameter's place in one flat order, with the settings that differ by parameter.

Everything that walks over all parameters (optimizer groups, checkpoints, the flat buffers) uses this order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest


@dataclass(frozen=True)
class Segment:
    """One parameter in the flat order. ``offset`` and ``length`` count elements."""

    name: str
    offset: int
    length: int
    weight_decay: float
    l2: float
    """c of the penalty c·Σw² on this parameter; its gradient is 2·c·w."""


def segment_table(
    model: nn.Module, *, weight_decay: float, decay_norm_and_bias: bool, l2: Mapping[str, float]
) -> list[Segment]:
    """List the model's trainable parameters in registration order, tied ones once.

    Args:
        model: any module.
        weight_decay: for every parameter, or for those of two or more dimensions when
            ``decay_norm_and_bias`` is False.
        decay_norm_and_bias: whether parameters of one dimension (norm weights, biases) decay too.
        l2: layer name → coefficient of the penalty on that layer's ``weight``.

    Raises:
        UserError: ``l2`` names a layer that has no trainable weight.
    """
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = [name.removesuffix(".weight") for name, _ in parameters if name.endswith(".weight")]
    for layer in l2:
        if layer not in layers:
            raise UserError(f"l2 names layer {layer!r}, which has no weight in this model{nearest(layer, layers)}")
    segments, offset = [], 0
    for name, parameter in parameters:
        decays = decay_norm_and_bias or parameter.ndim > 1
        penalty = l2.get(name.removesuffix(".weight"), 0.0) if name.endswith(".weight") else 0.0
        segments.append(Segment(name, offset, parameter.numel(), weight_decay if decays else 0.0, penalty))
        offset += parameter.numel()
    return segments


def add_l2_gradients(parameters: Mapping[str, Tensor], segments: Sequence[Segment]) -> None:
    """Add each penalty's gradient 2·c·w to the parameter's ``grad``."""
    with torch.no_grad():
        for segment in segments:
            if segment.l2:
                weight = parameters[segment.name]
                assert weight.grad is not None, f"{segment.name} has no gradient"
                weight.grad.add_(weight, alpha=2 * segment.l2)
