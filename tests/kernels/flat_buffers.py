"""Buffers and plain references for the tests of the ops over flat buffers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cifarfast.kernels import FlatTable

LENGTHS = (700, 1500, 5)
# not bf16, where Triton's interpreter does not round to nearest
COPY_DTYPE = torch.float16


def pack(values: Sequence[Tensor], table: FlatTable, device: str | torch.device = "cpu") -> Tensor:
    """One flat buffer with each tensor at its segment's place and zeros between."""
    buffer = torch.zeros(table.length, dtype=values[0].dtype)
    for offset, value in zip(table.offsets, values, strict=True):
        buffer[offset : offset + value.numel()] = value.detach().flatten()
    return buffer.to(device)


def unpack(buffer: Tensor, table: FlatTable) -> list[Tensor]:
    """The segments of a flat buffer, on the CPU."""
    buffer = buffer.cpu()
    return [buffer[o : o + length] for o, length in zip(table.offsets, table.lengths, strict=True)]


def draw(generator: torch.Generator, lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    """A normal tensor for each segment."""
    return [torch.randn(length, generator=generator) for length in lengths]


def relative_error(values: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """‖values − truth‖ / ‖truth‖ in fp64."""
    a, b = (torch.cat([tensor.detach().double().flatten() for tensor in tensors]) for tensors in (values, truth))
    return ((a - b).norm() / b.norm()).item()
