"""Transforms of the finished picture: Resize, Cutout, CutMix, Mixup. They come last, in this order.

Cutout's and CutMix's lengths count pixels of the data set's images; ``Resize`` scales the picture with them.
"""

from dataclasses import dataclass

import numpy as np

from cifarfast.errors import UserError

from . import checks
from .program import BETA_INTERVALS, MAX_HOLES, MixSettings, Program
from .transform import Transform


@dataclass(frozen=True)
class Resize(Transform):
    """Enlarge to ``side`` × ``side`` pixels, or ``factor`` times; give one of the two.

    ``bilinear`` (half-pixel centres, rounded to whole values) or ``nearest``, as torchvision's ``resize`` on uint8.
    """

    side: int | None = None
    factor: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if (self.side is None) == (self.factor is None):
            raise UserError(f"{self.name}: give either side or factor, got side={self.side} and factor={self.factor}")
        if self.side is not None:
            checks.integer(self.name, "side", self.side, 1, 1024)
        if self.factor is not None:
            checks.integer(self.name, "factor", self.factor, 1, 32)
        checks.choice(self.name, "interpolation", self.interpolation, ("bilinear", "nearest"))

    def compile(self, program: Program) -> None:
        height, width = program.size.height, program.size.width
        if self.side is not None:
            checks.integer(f"{self.name} of {height}×{width} images", "side", self.side, max(height, width), 1024)
            program.out_height = program.out_width = self.side
        elif self.factor is not None:
            program.out_height, program.out_width = height * self.factor, width * self.factor
        program.nearest_resize = self.interpolation == "nearest"


@dataclass(frozen=True)
class Cutout(Transform):
    """Set ``count`` squares of ``length`` pixels to 0 after normalisation, that is to the mean colour.

    Centres are uniform over the image, so a square may hang over its edge. ``p``: probability for an image.
    Source: DeVries and Taylor 2017 (arXiv 1708.04552).
    """

    length: int = 8
    count: int = 1
    p: float = 1.0

    def __post_init__(self) -> None:
        checks.integer(self.name, "length", self.length, 1)
        checks.integer(self.name, "count", self.count, 1, MAX_HOLES)
        checks.probability(self.name, self.p)

    def compile(self, program: Program) -> None:
        side = max(program.size.height, program.size.width)
        checks.integer(f"{self.name} on {side}-pixel images", "length", self.length, 1, 2 * side)
        program.cutout_length, program.cutout_count, program.cutout_probability = self.length, self.count, self.p


@dataclass(frozen=True)
class _Mix(Transform):
    alpha: float = 1.0
    probability: float = 1.0
    per: str = "sample"
    start_epoch: int = 0

    def __post_init__(self) -> None:
        checks.positive(self.name, "alpha", self.alpha)
        checks.number(self.name, "alpha", self.alpha, 0.01, 100.0)
        checks.probability(self.name, self.probability, "probability")
        checks.choice(self.name, "per", self.per, ("sample", "batch"))
        checks.integer(self.name, "start_epoch", self.start_epoch, 0)

    @property
    def settings(self) -> MixSettings:
        """The settings as the program keeps them."""
        return MixSettings(self.alpha, self.probability, self.per, self.start_epoch)


class CutMix(_Mix):
    """Paste a box of another image; the label's weight λ is the share of pixels that stay.

    λ' ~ Beta(alpha, alpha); the box has sides √(1−λ') of the image's, its centre is uniform, and what hangs over the
    edge is cut off; λ = 1 − area of the box / area of the image. The partner is another image of the data set (or of
    the ``pool``) in its own augmentation of this epoch, never the image itself.

    Args:
        alpha: of the Beta distribution, in 0.01…100.
        probability: that an image (``per="sample"``) or a batch (``per="batch"``) is mixed.
        per: whether λ' and the box are drawn per ``sample`` or once per ``batch``.
        start_epoch: first epoch with mixing.

    Source: Yun et al. 2019 (arXiv 1905.04899).
    """

    def compile(self, program: Program) -> None:
        program.cutmix = self.settings


class Mixup(_Mix):
    """Blend with another image: λ·a + (1−λ)·b on normalised pixels and labels, λ ~ Beta(alpha, alpha).

    Arguments and partner as in ``CutMix``. Source: Zhang et al. 2017 (arXiv 1710.09412).
    """

    def compile(self, program: Program) -> None:
        program.mixup = self.settings


def beta_quantiles(alpha: float, intervals: int = BETA_INTERVALS) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at 0, 1/intervals … 1 (float64 [intervals + 1]).

    The lower half of the density x^(alpha−1)·(1−x)^(alpha−1) is integrated and its integral, scaled to 1/2 at x = 1/2,
    inverted by interpolation; the upper half is the mirror image. Below alpha = 1 the density has a pole at 0, so there
    the integral is over v = (2x)^alpha, in which it is (1−x)^(alpha−1), smooth.
    """
    v = np.linspace(0.0, 1.0, 200_001)
    power = min(alpha, 1.0)
    x = 0.5 * v ** (1.0 / power)
    density = (4.0 * x * (1.0 - x)) ** (alpha - 1.0) if alpha > 1.0 else (1.0 - x) ** (alpha - 1.0)
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    cumulative *= 0.5 / cumulative[-1]
    lower = 0.5 * np.interp(np.arange(intervals // 2 + 1) / intervals, cumulative, v) ** (1.0 / power)
    return np.concatenate([lower, 1.0 - lower[-2::-1]])
