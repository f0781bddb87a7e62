"""The shapes that benchmarks and the tuner measure at: feature maps of WRN-16-8 and PyramidNet-110 (α = 150)."""

from collections.abc import Iterable

BATCHES = (128, 512)
# channels and side of the square maps; PyramidNet's widths are padded to multiples of 8
WRN16_8 = ((128, 32), (256, 16), (512, 8))
PYRAMIDNET110 = ((24, 32), (72, 32), (120, 16), (168, 8))
# widths between those, for the tuner only
BETWEEN = ((16, 32), (48, 32), (96, 16), (144, 8))

Shape = tuple[int, int, int]  # images, channels, side


def shapes(network: str, maps: Iterable[tuple[int, int]], batches: Iterable[int] = BATCHES) -> dict[str, Shape]:
    """Every map at every batch, by a name such as ``WRN 128x256x16x16``."""
    return {f"{network} {n}x{c}x{side}x{side}": (n, c, side) for c, side in maps for n in batches}


def wide_shapes() -> dict[str, Shape]:
    """Those of WRN-16-8."""
    return shapes("WRN", WRN16_8)


def pyramid_shapes() -> dict[str, Shape]:
    """Those of PyramidNet-110."""
    return shapes("PyramidNet", PYRAMIDNET110)


def between_shapes() -> dict[str, Shape]:
    """The tuner's widths between them."""
    return shapes("between", BETWEEN)
