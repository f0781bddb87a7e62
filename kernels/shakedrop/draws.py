"""The coefficients of ShakeDrop: where b, α and β of a layer come from, and how they are drawn with torch.

Every draw is one word of Philox4x32-10 under the key ``seed``. The counter is (sample index, step, stream, block):

* stream = ``layer · 2⁸ + 6``: the low byte says what the draw is for, so that other users of the key can avoid it;
* block = 0 for b and, at the levels ``batch`` and ``image``, for α and β; ``1 + c`` at the level ``channel``;
  ``1 + p · C + c`` at the level ``pixel`` (c: channel, p: position of the pixel in its image);
* sample index = 0 where a draw is shared by the batch.

Word 0 gives b, word 1 α and word 2 β, so the backward finds b again without anything saved. A draw depends on neither
the batch that a sample is in nor the order of the samples.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Self

import torch
from torch import Tensor

from ..arguments import names_misfits
from ..philox import philox_4x32, uniform
from ..randomness import check_counters

LEVELS = ("batch", "image", "channel", "pixel")
KEEP_LEVELS = ("batch", "image")
PURPOSE = 6
_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Scaling:
    """How a residual branch is scaled: at random if there is a ``seed``, else by ``keep_probability``; as ops and
    their implementations take it.

    Args:
        seed: [] int64, the key.
        step: [] int64, modulo 2³²; None is 0.
        indices: [N] int64, modulo 2³²; None is 0 … N − 1.
        keep_probability: p of b ~ Bernoulli(p), kept to 24 bits.
        layer: in [0, 2²⁴).
        level: what shares one α and one β: ``batch``, ``image``, ``channel`` (of an image) or ``pixel`` (none do).
        keep_level: what shares one b: ``batch`` or ``image``.
    """

    seed: Tensor | None = None
    step: Tensor | None = None
    indices: Tensor | None = None
    keep_probability: float = 1.0
    layer: int = 0
    level: str = "image"
    keep_level: str = "image"

    @classmethod
    def of(cls, keep_probability: float, training: bool, *, seed: Tensor | None = None, **settings: Any) -> Self:
        """By the arguments of ``shakedrop``; without the seed where nothing is drawn."""
        draws = training and keep_probability != 1
        return cls(seed if draws else None, keep_probability=keep_probability, **settings)

    @property
    def keep_threshold(self) -> int:
        """b is 1 where the 24 random bits of its uniform number are below this."""
        return round(self.keep_probability * 2**24)

    @property
    def stream(self) -> int:
        """The third word of the counter."""
        return self.layer << 8 | PURPOSE

    def checked(self, name: str, branch: Tensor) -> Self:
        """Itself; a ValueError if it does not fit the branch [N, …], whose caller calls it ``name``."""
        check_probability_and_levels(self.keep_probability, self.level, self.keep_level)
        check_counters(name, branch, self.seed, self.step, self.layer, self.indices)
        return self

    def seeded(self, branch: Tensor, training: bool) -> Self:
        """Itself with the seed to draw with: None where nothing is drawn, one from torch's generator where none is
        given."""
        draws = training and self.keep_probability != 1
        seed = self.seed if draws else None
        if draws and seed is None:
            seed = torch.randint(2**62, (), dtype=torch.int64, device=branch.device)
        settings = (self.keep_probability, self.layer, self.level, self.keep_level)
        return type(self)(seed, self.step, self.indices, *settings)


def check_probability_and_levels(keep_probability: float, level: str, keep_level: str) -> None:
    """Raise a ValueError that names the setting that is not allowed."""
    if not 0 <= keep_probability <= 1:
        raise ValueError(f"keep_probability must lie in [0, 1], got {keep_probability}")
    for setting, value, allowed in (("level", level, LEVELS), ("keep_level", keep_level, KEEP_LEVELS)):
        if value not in allowed:
            raise ValueError(f"{setting} must be one of {', '.join(allowed)}, got {value!r}")


@names_misfits
def linear_keep_probability(layer: int, layers: int, p_max: float = 0.5) -> float:
    """p of residual block ``layer`` of ``layers``, counted from 1: ``1 − layer / layers · p_max``.

    The linear decay rule of stochastic depth (Huang et al., 2016) with the last block dropped with probability
    ``p_max``; ShakeDrop's experiments use 0.5.

    Raises:
        ValueError: ``layer`` is not in [1, ``layers``], or ``p_max`` not in [0, 1].
    """
    if not 1 <= layer <= layers:
        raise ValueError(f"layer must lie in [1, layers = {layers}], got {layer}")
    if not 0 <= p_max <= 1:
        raise ValueError(f"p_max must lie in [0, 1], got {p_max}")
    return 1 - layer / layers * p_max


def draw_coefficients(shape: tuple[int, ...], device: torch.device, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Return ``b + α − b·α`` and ``b + β − b·β`` for a branch [N, C, …]: fp32, to be broadcast with it."""
    assert scaling.seed is not None
    n, rest = shape[0], (1,) * (len(shape) - 1)
    zero = torch.zeros((1, *rest), dtype=torch.int64, device=device)
    if scaling.indices is None:
        index = torch.arange(n, device=device).reshape(n, *rest)
    else:
        index = (scaling.indices & _MASK32).reshape(n, *rest)
    step = zero if scaling.step is None else scaling.step & _MASK32

    def draw(level: str, block: Tensor) -> tuple[Tensor, ...]:
        assert scaling.seed is not None
        return philox_4x32(scaling.seed, zero if level == "batch" else index, step, scaling.stream, block)

    words = draw(scaling.level, _blocks(shape, scaling.level, zero))
    if (scaling.level, scaling.keep_level) in (("image", "image"), ("batch", "batch")):
        keep_word = words[0]
    else:
        keep_word = draw(scaling.keep_level, zero)[0]
    keep = (keep_word >> 8) < scaling.keep_threshold
    return torch.where(keep, 1.0, uniform(words[1]) * 2 - 1), torch.where(keep, 1.0, uniform(words[2]))


def _blocks(shape: tuple[int, ...], level: str, zero: Tensor) -> Tensor:
    """The last word of the counter for α and β, to be broadcast with a tensor of this shape."""
    if level not in ("channel", "pixel"):
        return zero
    channels, pixels = shape[1], prod(shape[2:])
    rest = (1,) * (len(shape) - 2)
    channel = torch.arange(channels, device=zero.device).reshape(1, channels, *rest)
    if level == "channel":
        return 1 + channel
    return 1 + torch.arange(pixels, device=zero.device).reshape(1, 1, *shape[2:]) * channels + channel
