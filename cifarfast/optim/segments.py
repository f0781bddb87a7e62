"""The segment table: every trainable parameter's place in one flat order, with the settings that differ by parameter.

Everything that walks over all parameters (optimizer, averages, checkpoints, the flat buffers) uses this order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import UserError, nearest


class Region(IntEnum):
    """The parts of the flat order; parameters keep the order of registration inside each."""

    ORTHOGONAL = 0
    """Weights of inner layers, where Muon updates them."""
    HALF = 1
    """The other weights of convolutions and dense layers: what is computed with in half precision."""
    FULL = 2
    """Norms, biases and all other parameters: fp32 at any precision."""


@dataclass(frozen=True)
class Segment:
    """One parameter in the flat order."""

    name: str
    length: int
    """Elements."""
    region: Region
    weight_decay: float
    l2: float
    """c of the penalty c·Σw² on this parameter; its gradient is 2·c·w."""
    lr_scale: float


def segment_table(
    model: nn.Module,
    *,
    weight_decay: float,
    decay_norm_and_bias: bool = True,
    l2: Mapping[str, float] | None = None,
    lr_scale: Mapping[str, float] | None = None,
    muon: bool = False,
) -> list[Segment]:
    """List the model's trainable parameters in their flat order, tied ones once.

    Args:
        model: any module.
        weight_decay: for every parameter, or for those of two or more dimensions when
            ``decay_norm_and_bias`` is False.
        decay_norm_and_bias: whether parameters of one dimension (norm weights, biases) decay too.
        l2: layer name → coefficient of the penalty on that layer's ``weight``.
        lr_scale: first part of parameters' names → factor on the learning rate; the longest that fits counts.
        muon: whether weights of inner layers, all but the first and the last, are for Muon.

    Raises:
        UserError: nothing is trainable, or ``l2`` or ``lr_scale`` names what is not there.
    """
    l2, lr_scale = l2 or {}, lr_scale or {}
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not parameters:
        raise UserError("the model has no trainable parameters")
    layers = [name.removesuffix(".weight") for name, _ in parameters if name.endswith(".weight")]
    for layer in l2:
        if layer not in layers:
            raise UserError(f"l2 names layer {layer!r}, which has no weight in this model{nearest(layer, layers)}")
    check_prefixes(model, lr_scale)
    weights = matrix_weights(model)
    inner = [name for name, p in parameters if p in weights][1:-1] if muon else []
    segments = []
    for name, parameter in parameters:
        decays = decay_norm_and_bias or parameter.ndim > 1
        region = Region.ORTHOGONAL if name in inner else Region.HALF if parameter in weights else Region.FULL
        segments.append(
            Segment(
                name,
                parameter.numel(),
                region,
                weight_decay if decays else 0.0,
                l2.get(name.removesuffix(".weight"), 0.0) if name.endswith(".weight") else 0.0,
                scale_of(name, lr_scale),
            )
        )
    return sorted(segments, key=lambda segment: segment.region)


def matrix_weights(model: nn.Module) -> set[Tensor]:
    """The weights that only convolutions and dense layers have: what autocast computes with in half precision."""
    owners: dict[Tensor, list[bool]] = {}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                is_matrix = key == "weight" and isinstance(module, _ConvNd | nn.Linear)
                owners.setdefault(parameter, []).append(is_matrix)
    return {parameter for parameter, matrices in owners.items() if all(matrices)}


def check_prefixes(model: nn.Module, lr_scale: Mapping[str, float]) -> None:
    """Raise a UserError for a key of ``lr_scale`` that no parameter's name begins with."""
    names = [name for name, _ in model.named_parameters()]
    layers = sorted({name.rpartition(".")[0] for name in names})
    for prefix in lr_scale:
        if not any(_begins(name, prefix) for name in names):
            raise UserError(f"lr_scale names {prefix!r}, but no parameter begins so{nearest(prefix, layers)}")


def freeze(model: nn.Module, lr_scale: Mapping[str, float]) -> None:
    """Make the parameters whose factor is 0 untrainable: no gradient is computed for them."""
    check_prefixes(model, lr_scale)
    for name, parameter in model.named_parameters():
        if scale_of(name, lr_scale) == 0:
            parameter.requires_grad_(False)


def scale_of(name: str, lr_scale: Mapping[str, float]) -> float:
    """The factor of the longest key that the name begins with, 1 without one."""
    keys = [prefix for prefix in lr_scale if _begins(name, prefix)]
    return lr_scale[max(keys, key=len)] if keys else 1.0


def _begins(name: str, prefix: str) -> bool:
    """Whether ``prefix`` is the name or leading parts of it: "layer1" fits layer1.0.weight, not layer10.weight."""
    return name == prefix or name.startswith(f"{prefix}.")
