"""The draws of dropout: which elements stay, as a function of counters.

Eight neighbouring channels of a pixel share one draw of Philox4x32-10 under the key ``seed``, 16 bits each. The counter
is (sample index, step, stream, block):

* stream = ``layer · 2⁸ + 7``: the low byte says what the draw is for, so that other users of the key can avoid it;
* block = ``pixel · ⌈C / 8⌉ + ⌊channel / 8⌋``, where pixel is the position in the image, 0 for [N, C].

Of channel ``8 i + j`` the bits are the low (j < 4) or high half of word ``j mod 4``. An element is dropped where they
are below ``p · 2¹⁶``. A draw depends on neither the batch that a sample is in nor the order of the samples, and the
backward makes it again, so that nothing is saved.
"""

from dataclasses import dataclass
from math import prod
from typing import Self

import torch
from torch import Tensor

from ..philox import philox_4x32
from ..randomness import check_counters

GROUP = 8
PURPOSE = 7
_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Dropping:
    """Which elements are dropped, as ops and their implementations take it.

    Args:
        seed: [] int64, the key; None drops nothing.
        step: [] int64, modulo 2³²; None is 0.
        indices: [N] int64, modulo 2³²; None is 0 … N − 1.
        p: of dropping an element, kept to 16 bits.
        layer: in [0, 2²⁴).
    """

    seed: Tensor | None = None
    step: Tensor | None = None
    indices: Tensor | None = None
    p: float = 0.0
    layer: int = 0

    @property
    def threshold(self) -> int:
        """An element is dropped where its 16 bits are below this."""
        return round(self.p * 2**16)

    @property
    def scale(self) -> float:
        """What the elements that stay are multiplied by: ``1 / (1 − p)``, 0 where none stays."""
        return 0.0 if self.p == 1 else 1 / (1 - self.p)

    @property
    def stream(self) -> int:
        """The third word of the counter."""
        return self.layer << 8 | PURPOSE

    def checked(self, x: Tensor, name: str = "p") -> Self:
        """Itself; a ValueError if it does not fit x [N, …], whose caller calls p ``name``."""
        if not 0 <= self.p <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {self.p}")
        check_counters("x", x, self.seed, self.step, self.layer, self.indices)
        return self

    def seeded(self, x: Tensor) -> "Dropping":
        """Itself, with a seed from torch's generator where none is given; what drops nothing if p is 0."""
        if not self.p:
            return NO_DROPOUT
        if self.seed is not None:
            return self
        seed = torch.randint(2**62, (), dtype=torch.int64, device=x.device)
        return Dropping(seed, self.step, self.indices, self.p, self.layer)


NO_DROPOUT = Dropping()


def keep_mask(shape: tuple[int, ...], device: torch.device, dropping: Dropping) -> Tensor:
    """Which elements of a tensor [N, C, …] stay: bool, of the tensor's shape."""
    assert dropping.seed is not None
    n, channels, pixels = shape[0], shape[1], prod(shape[2:])
    index = torch.arange(n, device=device) if dropping.indices is None else dropping.indices & _MASK32
    step = 0 if dropping.step is None else dropping.step & _MASK32
    groups = -(-channels // GROUP)
    block = torch.arange(pixels * groups, device=device)
    words = torch.stack(philox_4x32(dropping.seed, index[:, None], step, dropping.stream, block), dim=-1)
    bits = torch.cat([words & 0xFFFF, words >> 16], dim=-1)  # [N, pixels · groups, 8]
    keep = (bits >= dropping.threshold).view(n, pixels, groups * GROUP)[..., :channels]
    return keep.transpose(1, 2).reshape(shape)


def drop(x: Tensor, dropping: Dropping) -> Tensor:
    """``x · scale`` where an element stays, else 0; differentiable, in x's dtype."""
    if dropping.seed is None:
        return x
    # with x's strides, which the result then has: the mask's own would be another layout's
    keep = torch.empty_like(x, dtype=torch.bool, requires_grad=False).copy_(keep_mask(x.shape, x.device, dropping))
    return torch.where(keep, x * dropping.scale, 0.0)
