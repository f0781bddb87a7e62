"""Inputs of a unit of a pre-activation network and of a PyramidNet block's tail, and of the batch norms after them."""

from typing import Any

import torch
from torch import Tensor, nn

from cifarfast.kernels.testing.spec import SampleMaker

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def draw_unit(
    seed: int, device: str, c: int = 8, k: int = 16, h: int = 4, w: int = 3, size: int = 3
) -> dict[str, Tensor]:
    make = SampleMaker(torch.float32, device, seed)
    return {
        "x": make.randn(2, c, h, w).requires_grad_(),
        "conv_weight": make.randn(k, c, size, size, scale=0.1).requires_grad_(),
        "running_mean": make.randn(c),
        "running_var": make.rand(c) + 0.5,
        "weight": (make.randn(c, scale=0.3) + 1).requires_grad_(),
        "bias": make.randn(c, scale=0.3).requires_grad_(),
    }


def leaves_of(inputs: dict[str, Tensor]) -> list[Tensor]:
    return [inputs[name] for name in ("x", "conv_weight", "weight", "bias")]


def draw_norm(
    channels: int, device: str, momentum: float | None = 0.3, *, dtype: torch.dtype | None = None
) -> nn.BatchNorm2d:
    make = SampleMaker(torch.float32, device, 7)
    norm = nn.BatchNorm2d(channels, 1e-3, momentum, device=device, dtype=dtype)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(make.rand(channels) + 0.5)
    return norm


def arguments_of(norm: nn.Module) -> dict[str, Any]:
    return {name: getattr(norm, name) for name in (*BUFFERS, "weight", "bias", "momentum", "eps")}


def draw_tail(device: str, channels: int = 8, in_channels: int = 4, pool: bool = False) -> tuple[Tensor, Tensor]:
    make = SampleMaker(torch.float32, device)
    side = 6 if pool else 3
    h, x = make.randn(3, channels, 3, 3, scale=3.0) + 2, make.randn(3, in_channels, side, side)
    return h.requires_grad_(), x.requires_grad_()


def draw_counters(device: str) -> dict[str, Tensor]:
    return {"seed": torch.tensor(11, device=device), "step": torch.tensor(5, device=device)}
