"""A program and the device's copy of its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from cifarfast.errors import UserError

from .mixing import CutMix, Cutout, Mixup, Resize, beta_quantiles
from .program import BETA_INTERVALS, FIELDS, MAX_ROWS, MAX_SIDE, MAX_STEPS, Program, Size
from .transform import Transform

_ORDER: tuple[tuple[type[Transform], ...], ...] = ((Resize,), (Cutout,), (CutMix, Mixup))


def _rank(transform: Transform) -> int:
    return next((i + 1 for i, kinds in enumerate(_ORDER) if isinstance(transform, kinds)), 0)


def check_order(transforms: Sequence[Transform]) -> None:
    """Image operations first, then Resize, Cutout and mixing, each at most once."""
    for before, after in pairwise(transforms):
        if _rank(after) < _rank(before):
            raise UserError(
                f"Augment: {after.name} cannot follow {before.name}; the order is image operations, Resize, Cutout, "
                "then CutMix and Mixup"
            )
    for kind in (Resize, Cutout, CutMix, Mixup):
        if sum(isinstance(t, kind) for t in transforms) > 1:
            raise UserError(f"Augment: at most one {kind.__name__} is allowed")
    mixing = [t for t in transforms if isinstance(t, CutMix | Mixup)]
    if len({t.per for t in mixing}) > 1:
        raise UserError("Augment: CutMix and Mixup must have the same per, 'sample' or 'batch'")


def compile_program(transforms: Sequence[Transform], size: Size) -> Program:
    """Compile the transforms for images of one size.

    Raises:
        UserError: for settings that this size does not allow, or too many operations.
    """
    if not all(1 <= side <= MAX_SIDE for side in (size.height, size.width)):
        raise UserError(f"Augment: images must have 1 to {MAX_SIDE} pixels a side, got {size.height}×{size.width}")
    program = Program(size)
    for transform in transforms:
        transform.compile(program)
    if len(program.rows) > MAX_ROWS or program.steps > MAX_STEPS:
        raise UserError(f"Augment: at most {MAX_STEPS} image operations are allowed, got {program.steps}")
    return program


@dataclass(frozen=True)
class Compiled:
    """A program with its tables on one device; writing to ``settings`` changes later launches."""

    program: Program
    rows: Tensor  # fp32 [rows, FIELDS]
    policy: Tensor  # fp32 [entries, 4]
    settings: Tensor  # fp32 [5]
    quantiles: Tensor  # fp32 [2 · (BETA_INTERVALS + 1)]
    scale_bias: Tensor  # fp32 [2, C]
    bad_index: Tensor  # int32 [1]


def to_device(program: Program, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Compiled:
    """Put the tables of a program on a device."""

    def table(values: list[list[float]], width: int) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, width)

    mixing = (program.cutmix, program.mixup)
    quantiles = [beta_quantiles(mix.alpha) if mix else np.zeros(BETA_INTERVALS + 1) for mix in mixing]
    scale = [1.0 / (255.0 * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    return Compiled(
        program=program,
        rows=table(program.rows, FIELDS),
        policy=table(program.policy, 4),
        settings=torch.tensor(program.settings, dtype=torch.float32, device=device),
        quantiles=torch.tensor(np.concatenate(quantiles), dtype=torch.float32, device=device),
        scale_bias=table([scale, bias], len(scale)),
        bad_index=torch.zeros(1, dtype=torch.int32, device=device),
    )
