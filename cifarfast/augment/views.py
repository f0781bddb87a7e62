"""Views for test-time augmentation: fixed transforms whose predictions are averaged with weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from . import checks
from .geometry import Mirror, Shift
from .transform import Transform

KINDS = ("none", "mirror", "mirror_shift", "ten_crop")


@dataclass(frozen=True)
class View:
    """Transforms of one view and the weight of its prediction; the weights of a set sum to 1."""

    transforms: tuple[Transform, ...]
    weight: float


def _mirrored(shifts: Sequence[tuple[int, int]], weight: float, mode: str) -> list[View]:
    views = []
    for dy, dx in shifts:
        moved: tuple[Transform, ...] = (Shift(dy, dx, mode),) if (dy, dx) != (0, 0) else ()
        views += [View(moved, weight), View((*moved, Mirror()), weight)]
    return views


def views(kind: str, *, shift: int = 1, mode: str = "reflect") -> list[View]:
    """Return the views of a kind; run ``Augment(view.transforms, mean, std)`` for each and add weight · prediction.

    Args:
        kind: ``none`` (the image), ``mirror`` (and its mirror image), ``mirror_shift`` (also both shifted by ``shift``
            pixels up-left and down-right; the centre counts half), ``ten_crop`` (centre and four corners of the image
            padded by ``shift`` pixels, and their mirror images).
        shift: in pixels, at least 1.
        mode: what lies outside the image: zero, reflect or edge.

    Raises:
        UserError: for an unknown kind, with the nearest known one.
    """
    checks.choice("views", "kind", kind, KINDS)
    checks.integer("views", "shift", shift, 1)
    if kind == "none":
        return [View((), 1.0)]
    if kind == "mirror":
        return _mirrored([(0, 0)], 0.5, mode)
    if kind == "mirror_shift":
        return _mirrored([(0, 0)], 0.25, mode) + _mirrored([(-shift, -shift), (shift, shift)], 0.125, mode)
    corners = [(dy, dx) for dy in (-shift, shift) for dx in (-shift, shift)]
    return _mirrored([(0, 0), *corners], 0.1, mode)
