"""The activations that may follow a batch norm: values and derivatives with torch ops."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805

_VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": F.softsign,
}
ACTIVATIONS = ("identity", "relu", "leaky_relu", *_VALUES)


def activate(z: Tensor, act: str, negative_slope: float) -> Tensor:
    """``act(z)`` in z's dtype; ``negative_slope`` is leaky_relu's. ``z`` may be overwritten."""
    if act == "relu":
        return torch.relu_(z)
    if act == "identity":
        return z
    if act == "leaky_relu":
        return F.leaky_relu(z, negative_slope)
    return _VALUES[act](z)


def through_activation(
    grad: Tensor, z: Tensor, act: str, negative_slope: float, branch: Tensor | None = None
) -> Tensor:
    """``grad · act′(z)``, 0 where a relu masks a gradient of any size; ``branch`` is that of ``derivative``."""
    if act == "relu":
        return torch.where((z if branch is None else branch) > 0, grad, 0.0)
    return grad * derivative(z, act, negative_slope, branch)


def derivative(z: Tensor, act: str, negative_slope: float, branch: Tensor | None = None) -> Tensor:
    """``act′(z)``.

    ``branch`` decides between the two sides of piecewise activations (``branch > 0``): z as the forward rounded it.
    """
    right = (z if branch is None else branch) > 0
    if act == "identity":
        return torch.ones_like(z)
    if act == "relu":
        return right.to(z.dtype)
    if act == "leaky_relu":
        return torch.where(right, 1.0, negative_slope).to(z.dtype)
    if act == "elu":
        return torch.where(right, 1.0, z.exp())
    if act == "selu":
        return SELU_SCALE * torch.where(right, 1.0, SELU_ALPHA * z.exp())
    if act == "tanh":
        return 1 - z.tanh().square()
    if act == "softsign":
        return (1 + z.abs()).square().reciprocal()
    if act == "gelu":
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density
    s = z.sigmoid()
    if act == "sigmoid":
        return s * (1 - s)
    assert act == "silu", act
    return s * (1 + z * (1 - s))
