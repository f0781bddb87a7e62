"""Philox4x32-10: random numbers as a pure function of (key, counter).

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The same function, bit for
bit, is ``csrc/philox.h`` (C++ and CUDA) and what Triton kernels compute, so a draw does not depend on where it is made.
"""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK32 = 0xFFFFFFFF


def _mulhilo(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the 64-bit product of two unsigned 32-bit numbers, in signed 64-bit arithmetic."""
    product = a * b  # its bits are right where it passes 2^63, and the masks take the sign away
    return (product >> 32) & _MASK32, product & _MASK32


def philox_4x32(
    key: int | Tensor, c0: Tensor, c1: Tensor | int = 0, c2: Tensor | int = 0, c3: Tensor | int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four words of random bits for every counter (c0, c1, c2, c3) under a 64-bit key.

    Args:
        key: 64 bits, an int or an int64 tensor of one element; the low 32 are the generator's first key word.
        c0: int64 tensor of any shape with values in [0, 2^32).
        c1, c2, c3: the other counter words, ints or tensors that broadcast with ``c0``.

    Returns:
        Four int64 tensors, broadcast shape, values in [0, 2^32).
    """
    k0, k1 = key & _MASK32, (key >> 32) & _MASK32
    # a number is filled in on the device: copied from the host it could not be part of a CUDA graph
    rest = (c if isinstance(c, Tensor) else torch.full((), c, device=c0.device) for c in (c1, c2, c3))
    words = [c0, *(c.to(torch.int64) for c in rest)]
    x0, x1, x2, x3 = torch.broadcast_tensors(*words)
    for _ in range(10):
        high0, low0 = _mulhilo(_MULTIPLIERS[0], x0)
        high1, low1 = _mulhilo(_MULTIPLIERS[1], x2)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return x0, x1, x2, x3


def uniform(bits: Tensor) -> Tensor:
    """Map words of 32 random bits to float32 in [0, 1): ``(bits >> 8) · 2⁻²⁴``, exact in fp32."""
    return (bits >> 8).to(torch.float32) * 2.0**-24
