"""Parameters and buffers stored wider than they are: what lies behind their true shape is zero.

Convolution kernels want channels in multiples of 8. A module of a fused model stores its tensors so; its ``state_dict``
has, and takes, the true shapes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNEL_MULTIPLE = 8


def stored_width(channels: int) -> int:
    """The next multiple of 8."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def zero_padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor in a larger shape, zeros behind its values; its memory format is kept."""
    missing = [(0, wide - narrow) for wide, narrow in zip(shape, tensor.shape, strict=True)]
    return F.pad(tensor, [amount for pair in reversed(missing) for amount in pair])


def true_part(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The part of a stored tensor that is not padding, a view."""
    return tensor[tuple(slice(length) for length in shape)]


class Fused(nn.Module):
    """Base of the modules of a fused model.

    A module becomes one when its class is exchanged (see ``fuse``), so it has no ``__init__``; ``adopt`` is called
    instead.
    """

    true_shapes: Mapping[str, torch.Size] = MappingProxyType({})
    """The true shape of each parameter and buffer that is stored padded, by name."""

    def adopt(self) -> None:
        """Called once, when the module has become of this class and those inside it have been adopted."""

    def store_padded(self, name: str, *shape: int) -> None:
        """Store a parameter or buffer in ``shape``, with zeros behind its values; None stays None."""
        tensor = getattr(self, name)
        if tensor is None or tensor.shape == shape:
            return
        self.true_shapes = {**self.true_shapes, name: tensor.shape}
        stored = zero_padded(tensor.detach(), torch.Size(shape))
        if isinstance(tensor, nn.Parameter):
            stored = nn.Parameter(stored, requires_grad=tensor.requires_grad)
        setattr(self, name, stored)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, shape in self.true_shapes.items():
            destination[prefix + name] = true_part(destination[prefix + name], shape)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        padded = dict(state_dict)
        for name, shape in self.true_shapes.items():
            value, stored = padded.get(prefix + name), getattr(self, name).detach()
            if not isinstance(value, Tensor):
                continue
            if value.shape == shape:
                padded[prefix + name] = zero_padded(value, stored.shape)
            else:
                error_msgs.append(
                    f"size mismatch for {prefix}{name}: copying a param with shape {value.shape} from checkpoint, "
                    f"the shape in current model is {shape}."
                )
                padded[prefix + name] = stored  # the stored shape would pass for the right one
        super()._load_from_state_dict(padded, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def true_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Name → true shape of the model's parameters and buffers that are stored padded with zeros; no others."""
    return {
        f"{prefix}.{name}" if prefix else name: shape
        for prefix, module in model.named_modules()
        if isinstance(module, Fused)
        for name, shape in module.true_shapes.items()
    }
