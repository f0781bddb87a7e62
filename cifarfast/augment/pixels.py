"""Transforms that change pixel values: jitter, posterize, solarize, histogram operations, sharpness.

Factors follow torchvision's functional operations: 1 leaves the image, 0 is black, the mean grey, the grey image or the
blurred image, above 1 exaggerates.
"""

from dataclasses import dataclass

from . import checks
from .program import Kind, Program
from .transform import Transform


@dataclass(frozen=True)
class _Jitter(Transform):
    """A factor uniform in [max(0, 1 − amount), 1 + amount] with probability ``p``."""

    amount: float = 0.4
    p: float = 1.0

    def __post_init__(self) -> None:
        checks.number(self.name, "amount", self.amount, 0.0)
        checks.probability(self.name, self.p)

    @property
    def kind(self) -> Kind:
        """Which operation takes the factor."""
        return {
            "Brightness": Kind.BRIGHTNESS,
            "Contrast": Kind.CONTRAST,
            "Color": Kind.COLOR,
            "Sharpness": Kind.SHARPNESS,
        }[self.name.removeprefix("Random")]

    def compile(self, program: Program) -> None:
        program.add_row(self.kind, self.p, max(0.0, 1.0 - self.amount), 1.0 + self.amount)


class RandomBrightness(_Jitter):
    """Multiply by a factor uniform in [max(0, 1 − amount), 1 + amount] with probability ``p``."""


class RandomContrast(_Jitter):
    """Blend with the image's mean grey value; factor and ``p`` as in ``RandomBrightness``."""


class RandomColor(_Jitter):
    """Blend with the grey image (saturation); factor and ``p`` as in ``RandomBrightness``. Grey images stay."""


class RandomSharpness(_Jitter):
    """Blend with a 3×3 blur; factor and ``p`` as in ``RandomBrightness``. The outermost pixels stay."""


@dataclass(frozen=True)
class RandomPosterize(Transform):
    """Keep the ``bits`` highest bits of each value with probability ``p``."""

    bits: int = 4
    p: float = 0.5

    def __post_init__(self) -> None:
        checks.integer(self.name, "bits", self.bits, 0, 8)
        checks.probability(self.name, self.p)

    def compile(self, program: Program) -> None:
        program.add_row(Kind.POSTERIZE, self.p, self.bits, self.bits)


@dataclass(frozen=True)
class RandomSolarize(Transform):
    """Invert values of at least ``threshold`` (0…255) with probability ``p``."""

    threshold: float = 128.0
    p: float = 0.5

    def __post_init__(self) -> None:
        checks.number(self.name, "threshold", self.threshold, 0.0, 255.0)
        checks.probability(self.name, self.p)

    def compile(self, program: Program) -> None:
        program.add_row(Kind.SOLARIZE, self.p, self.threshold, self.threshold)


@dataclass(frozen=True)
class _Switch(Transform):
    """An operation without a parameter, with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        checks.probability(self.name, self.p)

    def compile(self, program: Program) -> None:
        program.add_row(Kind[self.name.removeprefix("Random").upper()], self.p)


class RandomInvert(_Switch):
    """Replace each value v by 255 − v with probability ``p``."""


class RandomEqualize(_Switch):
    """Equalize each channel's histogram with probability ``p``."""


class RandomAutoContrast(_Switch):
    """Stretch each channel to the full range with probability ``p``."""
