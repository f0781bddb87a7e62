"""Stateless randomness: every draw is Philox keyed by (seed; purpose, epoch, index); no generator has state.

The counter is (index, epoch, purpose, block): ``index`` is the sample's position in the data set, or the
step's number; ``block`` counts further groups of four words for the same sample. The key is the run's seed.
"""

from enum import IntEnum

import torch
from torch import Tensor

from cifarfast.kernels.philox import philox_4x32


class Purpose(IntEnum):
    """What a draw is for. The numbers are part of a run's identity: never renumber, only append."""

    SHUFFLE = 0
    AUGMENT = 1
    STEP = 2
    SPLIT = 3
    SUBSET = 4
    SYNTHETIC = 5
    SHAKEDROP = 6  # drawn in the kernel: kernels/shakedrop
    DROPOUT = 7  # drawn in the kernel: kernels/dropout


def draw_bits(
    seed: int, purpose: Purpose, epoch: int | Tensor, index: Tensor, block: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four int64 tensors of 32 random bits each for every ``index`` (int64, any shape)."""
    return philox_4x32(seed, index, epoch, int(purpose), block)


def permutation(n: int, seed: int, purpose: Purpose, epoch: int, device: torch.device | str = "cpu") -> Tensor:
    """A permutation of 0…n−1 (int64): the indices sorted by 62 random bits each, ties by index."""
    index = torch.arange(n, dtype=torch.int64, device=device)
    high, low, _, _ = draw_bits(seed, purpose, epoch, index)
    return torch.argsort((high << 30) | (low >> 2), stable=True)


def step_seeds(seed: int, first_step: int, count: int) -> list[int]:
    """A 63-bit seed for torch's generator for each step from ``first_step``: other libraries' dropout draws from it."""
    high, low, _, _ = draw_bits(seed, Purpose.STEP, 0, torch.arange(first_step, first_step + count))
    return ((high << 31) | (low >> 1)).tolist()
