"""A list of transforms compiled to small tables: what the native kernel and the plain torch implementation both read.

The image operations are rows of ``FIELDS`` fp32 numbers, executed in order; every draw of row ``t`` comes from the Philox
blocks ``BLOCKS_PER_ROW·t …``, so a sample's augmentation depends on (seed, epoch, sample index) and the list alone.
``csrc/program.h`` has the same numbers.
"""

from dataclasses import dataclass, field
from enum import IntEnum

FIELDS = 16
BLOCKS_PER_ROW = 16
MAX_ROWS = 32
MAX_STEPS = 32
MAX_HOLES = 16
CUTOUT_BLOCK = 1024
MIX_BLOCK = 1040
BETA_INTERVALS = 4096


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


@dataclass(frozen=True)
class Size:
    """Height, width and channels of the images a program is compiled for."""

    height: int
    width: int
    channels: int


@dataclass
class Program:
    """The tables of one list of transforms for one image size.

    ``rows``: one list of ``FIELDS`` numbers per image operation, ``[kind, probability, low, high, …]``; the last number is
    the operation's first resolved step. ``policy``: ``[kind, probability, magnitude, signed]`` per entry, row by row.
    """

    size: Size
    rows: list[list[float]] = field(default_factory=list)
    policy: list[list[float]] = field(default_factory=list)
    steps: int = 0
    cutout_length: int = 0
    cutout_count: int = 0
    cutout_probability: float = 0.0
    cutmix: "MixSettings | None" = None
    mixup: "MixSettings | None" = None
    side: int = 0

    def add_row(self, kind: Kind, *numbers: float, steps: int = 1) -> None:
        """Append one operation whose fields from the second on are ``numbers``; it resolves to ``steps`` steps."""
        row = [float(kind), *numbers]
        assert len(row) < FIELDS
        self.rows.append([*row, *[0.0] * (FIELDS - 1 - len(row)), float(self.steps)])
        self.steps += steps

    @property
    def mixes(self) -> bool:
        """Whether CutMix or Mixup is in the list."""
        return self.cutmix is not None or self.mixup is not None


@dataclass(frozen=True)
class MixSettings:
    """Settings of one mixing transform: Beta(alpha, alpha), chance, shared by a batch or not, first epoch."""

    alpha: float
    probability: float
    per: str
    start_epoch: int
