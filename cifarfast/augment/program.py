"""A list of transforms compiled to small tables: what the native kernel and the plain torch implementation both read.

The image operations are rows of ``FIELDS`` fp32 numbers, executed in order; every draw of row ``t`` comes from Philox
blocks ``BLOCKS_PER_ROW·t …``, so a sample's augmentation depends on (seed, epoch, sample index) and the list alone.
``csrc/program.h`` has the same numbers.
"""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

FIELDS = 16
BLOCKS_PER_ROW = 16
MAX_ROWS = 32
MAX_STEPS = 32
MAX_HOLES = 16
MAX_SIDE = 4096
CUTOUT_BLOCK = 1024
MIX_BLOCK = 1040
BETA_INTERVALS = 4096


def single(value: float) -> float:
    """The nearest fp32 value: what the tables hold on the device."""
    return float(np.float32(value))


class Kind(IntEnum):
    """What a row, a policy entry or a resolved step does. The numbers are part of a run's identity: only append."""

    IDENTITY = 0
    BRIGHTNESS = 1
    CONTRAST = 2
    COLOR = 3
    SHARPNESS = 4
    POSTERIZE = 5
    SOLARIZE = 6
    AUTOCONTRAST = 7
    EQUALIZE = 8
    INVERT = 9
    SHEAR_X = 10
    SHEAR_Y = 11
    TRANSLATE_X = 12
    TRANSLATE_Y = 13
    ROTATE = 14
    CROP = 15
    FLIP = 16
    ALTERNATING_FLIP = 17
    AFFINE = 18
    POLICY = 19
    NEAREST_MAP = 20
    BILINEAR_MAP = 21


class PadMode(IntEnum):
    """What a crop shows outside the image."""

    ZERO = 0
    REFLECT = 1
    EDGE = 2


class Sign(IntEnum):
    """What the drawn sign bit of a policy entry does."""

    NONE = 0
    DRAWN = 1
    FACTOR = 2  # the parameter is 1 ± magnitude


@dataclass(frozen=True)
class Size:
    """Height, width and channels of the images a program is compiled for."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True)
class MixSettings:
    """Settings of one mixing transform: Beta(alpha, alpha), chance, shared by a batch or not, first epoch."""

    alpha: float
    probability: float
    per: str
    start_epoch: int


@dataclass
class Program:
    """The tables of one list of transforms for one image size.

    ``rows``: ``FIELDS`` numbers per image operation, ``[kind, probability, low, high, …]``; the last number is the
    operation's first resolved step. ``policy``: ``[kind, probability, magnitude, sign]`` per entry, row by row.
    """

    size: Size
    rows: list[list[float]] = field(default_factory=list)
    policy: list[list[float]] = field(default_factory=list)
    steps: int = 0
    cutout_length: int = 0
    cutout_count: int = 0
    cutout_probability: float = 0.0
    cutmix: MixSettings | None = None
    mixup: MixSettings | None = None
    out_height: int = 0
    out_width: int = 0
    nearest_resize: bool = False

    def __post_init__(self) -> None:
        self.out_height, self.out_width = self.size.height, self.size.width

    def add_row(self, kind: Kind, *numbers: float, steps: int = 1) -> None:
        """Append one operation whose fields from the second on are ``numbers``; it resolves to ``steps`` steps."""
        row = [single(number) for number in (kind, *numbers)]
        assert len(row) < FIELDS
        self.rows.append([*row, *[0.0] * (FIELDS - 1 - len(row)), float(self.steps)])
        self.steps += steps

    @property
    def mixes(self) -> bool:
        """Whether CutMix or Mixup is in the list."""
        return self.cutmix is not None or self.mixup is not None

    @property
    def mix_per_batch(self) -> bool:
        """Whether λ and the box are shared by a batch."""
        return any(mix is not None and mix.per == "batch" for mix in (self.cutmix, self.mixup))

    @property
    def resizes(self) -> bool:
        """Whether the output has another size than the images."""
        return (self.out_height, self.out_width) != (self.size.height, self.size.width)

    @property
    def staged(self) -> bool:
        """Whether an operation works on a copy of the image, rather than only moving pixels."""
        moves = (Kind.CROP, Kind.FLIP, Kind.ALTERNATING_FLIP)
        return any(r[0] not in moves and not (r[0] == Kind.AFFINE and r[12] == 0.0) for r in self.rows)

    @property
    def settings(self) -> list[float]:
        """``[Cutout's p, CutMix's p, Mixup's p, CutMix's first epoch, Mixup's first epoch]``.

        With both mixing transforms in the list each gets half its probability, and an image gets at most one.
        """
        share = 0.5 if self.cutmix and self.mixup else 1.0
        both = (self.cutmix, self.mixup)
        chances = [single(mix.probability * share) if mix else 0.0 for mix in both]
        starts = [float(mix.start_epoch) if mix else 0.0 for mix in both]
        return [single(self.cutout_probability), *chances, *starts]
