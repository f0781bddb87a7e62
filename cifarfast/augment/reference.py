"""The plain torch implementation: the definition the native kernel is tested against, and the fallback without one."""

import torch
from torch import Tensor

from cifarfast.kernels.philox import uniform
from cifarfast.random import Purpose, draw_bits

from .program import BLOCKS_PER_ROW, Kind, PadMode, Program

Epoch = int | Tensor


class Draws:
    """The random words of a batch: ``words(block)`` gives four int64 [B] tensors of 32 bits for each sample."""

    def __init__(self, seed: int, epoch: Epoch, index: Tensor) -> None:
        self.seed, self.epoch, self.index = seed, epoch, index

    def words(self, block: int, epoch: Epoch | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four words a sample; ``epoch`` replaces the epoch in the counter."""
        return draw_bits(self.seed, Purpose.AUGMENT, self.epoch if epoch is None else epoch, self.index, block)


def randint(bits: Tensor, n: int) -> Tensor:
    """Map 32 random bits to an integer in [0, n): ``(bits · n) >> 32``."""
    return (bits * n) >> 32


def source_index(position: Tensor, side: int, mode: PadMode) -> tuple[Tensor, Tensor]:
    """Where a coordinate that may lie outside [0, side) is read, and whether it lies inside (all True unless ZERO)."""
    inside = (position >= 0) & (position < side)
    if mode is PadMode.REFLECT:
        position = torch.where(position < 0, -position, position)
        position = torch.where(position >= side, 2 * (side - 1) - position, position)
    position = position.clamp(0, side - 1)
    return position, inside if mode is PadMode.ZERO else torch.ones_like(inside)


def shift(images: Tensor, dy: Tensor, dx: Tensor, mode: PadMode) -> Tensor:
    """Per-sample shift of uint8 [B, H, W, C]: output (y, x) is input (y + dy, x + dx); dy, dx: int64 [B]."""
    batch, height, width, channels = images.shape
    rows, row_inside = source_index(torch.arange(height, device=images.device) + dy[:, None], height, mode)
    columns, column_inside = source_index(torch.arange(width, device=images.device) + dx[:, None], width, mode)
    position = (rows[:, :, None] * width + columns[:, None, :]).reshape(batch, -1, 1)
    moved = images.reshape(batch, -1, channels).gather(1, position.expand(-1, -1, channels)).view(images.shape)
    if mode is PadMode.ZERO:
        moved = moved * (row_inside[:, :, None] & column_inside[:, None, :]).unsqueeze(-1)
    return moved


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror the samples of uint8 [B, H, W, C] whose mask (bool [B]) is set."""
    return torch.where(mask[:, None, None, None], images.flip(2), images)


def _apply_row(images: Tensor, row: list[float], block: int, draws: Draws) -> Tensor:
    kind = Kind(int(row[0]))
    if kind is Kind.CROP:
        padding, mode = int(row[4]), PadMode(int(row[5]))
        first, second, _, _ = draws.words(block)
        dy = randint(first, 2 * padding + 1) - padding + int(row[6])
        dx = randint(second, 2 * padding + 1) - padding + int(row[7])
        return shift(images, dy, dx, mode)
    if kind is Kind.FLIP:
        return flip(images, uniform(draws.words(block)[0]) < row[1])
    if kind is Kind.ALTERNATING_FLIP:
        first_epoch = draws.words(block, epoch=0)[0] & 1
        return flip(images, ((first_epoch + draws.epoch) & 1).bool())
    raise AssertionError(kind)


def augment_uint8(program: Program, images: Tensor, draws: Draws) -> Tensor:
    """Run the program's image operations on uint8 [B, H, W, C]."""
    for number, row in enumerate(program.rows):
        images = _apply_row(images, row, number * BLOCKS_PER_ROW, draws)
    return images


def normalise(images: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``images · scale + bias`` in fp32, [B, H, W, C] → [B, C, H, W] in channels_last layout."""
    return images.to(torch.float32).mul_(scale).add_(bias).permute(0, 3, 1, 2)
