"""AutoAugment, RandAugment and TrivialAugment: tables of operations from which each image draws.

Magnitudes are torchvision's: a linear range per operation in a number of bins, scaled to the image where in pixels.
"""

from dataclasses import dataclass

import torch

from . import checks
from .geometry import INTERPOLATIONS
from .program import BLOCKS_PER_ROW, Kind, Program, Sign, Size, single
from .transform import Transform

_ENHANCE = (Kind.BRIGHTNESS, Kind.COLOR, Kind.CONTRAST, Kind.SHARPNESS)

# (operation, probability, magnitude bin) twice: the 25 sub-policies found on CIFAR-10 in Cubuk et al., "AutoAugment:
# Learning Augmentation Policies from Data", 2018 (arXiv 1805.09501), appendix, table 7.
_CIFAR10 = """
Invert .1 - Contrast .2 6      | Rotate .7 2 Translate_X .3 9      | Sharpness .8 1 Sharpness .9 3
Shear_Y .5 8 Translate_Y .7 9  | AutoContrast .5 - Equalize .9 -   | Shear_Y .2 7 Posterize .3 7
Color .4 3 Brightness .6 7     | Sharpness .3 9 Brightness .7 9    | Equalize .6 - Equalize .5 -
Contrast .6 7 Sharpness .6 5   | Color .7 7 Translate_X .5 8       | Equalize .3 - AutoContrast .4 -
Translate_Y .4 3 Sharpness .2 6 | Brightness .9 6 Color .2 8       | Solarize .5 2 Invert 0 -
Equalize .2 - AutoContrast .6 - | Equalize .2 - Equalize .6 -      | Color .9 9 Equalize .6 -
AutoContrast .8 - Solarize .2 8 | Brightness .1 3 Color .7 0       | Solarize .4 5 AutoContrast .9 -
Translate_Y .9 9 Translate_Y .7 9 | AutoContrast .9 - Solarize .8 3 | Equalize .8 - Invert .1 -
Translate_Y .7 9 AutoContrast .9 -
"""

SubPolicy = tuple[tuple[Kind, float, int | None], ...]


def cifar10_policy() -> list[SubPolicy]:
    """The 25 sub-policies, each two (kind, probability, magnitude bin or None)."""
    policies = []
    for entry in _CIFAR10.strip().replace("\n", "|").split("|"):
        words = entry.split()
        operations = [words[i : i + 3] for i in range(0, len(words), 3)]
        policies.append(
            tuple((Kind[n.upper()], float(p), None if bin_ == "-" else int(bin_)) for n, p, bin_ in operations)
        )
    return policies


def _bin(first: float, last: float, position: int, bins: int) -> float:
    # torch's linspace, so that thresholds and truncated shifts are torchvision's to the last bit
    return float(torch.linspace(first, last, bins)[position])


@dataclass(frozen=True)
class Space:
    """The strongest magnitude of each operation, in torchvision's units."""

    shear: float
    translate: tuple[float, float]
    degrees: float
    enhance: float
    posterize_bits: int

    def magnitude(self, kind: Kind, position: int, bins: int) -> tuple[float, Sign]:
        """The parameter of ``kind`` in one bin, and what its sign does."""
        if kind in (Kind.SHEAR_X, Kind.SHEAR_Y):
            return _bin(0.0, self.shear, position, bins), Sign.DRAWN
        if kind in (Kind.TRANSLATE_X, Kind.TRANSLATE_Y):
            return float(int(_bin(0.0, self.translate[kind is Kind.TRANSLATE_Y], position, bins))), Sign.DRAWN
        if kind is Kind.ROTATE:
            return _bin(0.0, self.degrees, position, bins), Sign.DRAWN
        if kind in _ENHANCE:
            return _bin(0.0, self.enhance, position, bins), Sign.FACTOR
        if kind is Kind.POSTERIZE:
            return float(8 - round(position / ((bins - 1) / self.posterize_bits))), Sign.NONE
        if kind is Kind.SOLARIZE:
            return _bin(255.0, 0.0, position, bins), Sign.NONE
        return 0.0, Sign.NONE

    def entry(self, kind: Kind, probability: float, position: int, bins: int) -> list[float]:
        """One table entry ``[kind, probability, magnitude, sign]``."""
        value, sign = self.magnitude(kind, position, bins)
        return [float(kind), single(probability), single(value), float(sign)]


def relative_space(size: Size) -> Space:
    """AutoAugment's and RandAugment's ranges."""
    return Space(0.3, (150 / 331 * size.width, 150 / 331 * size.height), 30.0, 0.9, 4)


WIDE_SPACE = Space(0.99, (32.0, 32.0), 135.0, 0.99, 6)
RAND_KINDS = (
    *(Kind.IDENTITY, Kind.SHEAR_X, Kind.SHEAR_Y, Kind.TRANSLATE_X, Kind.TRANSLATE_Y, Kind.ROTATE),
    *_ENHANCE,
    *(Kind.POSTERIZE, Kind.SOLARIZE, Kind.AUTOCONTRAST, Kind.EQUALIZE),
)


def _add(program: Program, table: list[list[float]], *, rounds: int, per_entry: int, interpolation: str) -> None:
    bilinear = float(interpolation == "bilinear")
    start = len(program.policy)
    entries = len(table) // per_entry
    program.policy += table
    program.add_row(
        *(Kind.POLICY, 1.0, 0.0, 0.0, rounds, entries, per_entry, bilinear, start), steps=rounds * per_entry
    )


@dataclass(frozen=True)
class AutoAugment(Transform):
    """One of 25 learned pairs of operations, each applied with its own probability, in order.

    Source: Cubuk et al. 2018 (arXiv 1805.09501), CIFAR-10 policy; torchvision's ``AutoAugment(CIFAR10)``.
    """

    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        checks.choice(self.name, "interpolation", self.interpolation, INTERPOLATIONS)

    def compile(self, program: Program) -> None:
        space = relative_space(program.size)
        table = [space.entry(k, p, bin_ or 0, 10) for pair in cifar10_policy() for k, p, bin_ in pair]
        _add(program, table, rounds=1, per_entry=2, interpolation=self.interpolation)


@dataclass(frozen=True)
class RandAugment(Transform):
    """``num_ops`` operations drawn uniformly from 14, all at one ``magnitude`` of ``bins``.

    Source: Cubuk et al. 2019 (arXiv 1909.13719); torchvision's ``RandAugment``.
    """

    num_ops: int = 2
    magnitude: int = 9
    bins: int = 31
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        checks.integer(self.name, "num_ops", self.num_ops, 1, BLOCKS_PER_ROW)
        checks.integer(self.name, "bins", self.bins, 2)
        checks.integer(self.name, "magnitude", self.magnitude, 0, self.bins - 1)
        checks.choice(self.name, "interpolation", self.interpolation, INTERPOLATIONS)

    def compile(self, program: Program) -> None:
        space = relative_space(program.size)
        table = [space.entry(kind, 1.0, self.magnitude, self.bins) for kind in RAND_KINDS]
        _add(program, table, rounds=self.num_ops, per_entry=1, interpolation=self.interpolation)


@dataclass(frozen=True)
class TrivialAugment(Transform):
    """One operation drawn uniformly from 14, at a magnitude drawn uniformly from ``bins``, over wide ranges.

    Source: Müller and Hutter 2021 (arXiv 2103.10158); torchvision's ``TrivialAugmentWide``.
    """

    bins: int = 31
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        checks.integer(self.name, "bins", self.bins, 2, 256)
        checks.choice(self.name, "interpolation", self.interpolation, INTERPOLATIONS)

    def compile(self, program: Program) -> None:
        table = [WIDE_SPACE.entry(kind, 1.0, b, self.bins) for kind in RAND_KINDS for b in range(self.bins)]
        _add(program, table, rounds=1, per_entry=1, interpolation=self.interpolation)
