"""A program run in plain torch: the definition the native kernel is tested against, and the fallback without one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cifarfast.kernels.philox import uniform
from cifarfast.random import Purpose, draw_bits

from . import torch_ops as ops
from .compiled import Compiled
from .program import BETA_INTERVALS, BLOCKS_PER_ROW, CUTOUT_BLOCK, MIX_BLOCK, Kind, PadMode, Program, Sign

Epoch = int | Tensor

_PIXEL_OPS: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    Kind.BRIGHTNESS: ops.brightness,
    Kind.CONTRAST: ops.contrast,
    Kind.COLOR: ops.color,
    Kind.SHARPNESS: ops.sharpness,
    Kind.POSTERIZE: ops.posterize,
    Kind.SOLARIZE: ops.solarize,
    Kind.AUTOCONTRAST: ops.autocontrast,
    Kind.EQUALIZE: ops.equalize,
    Kind.INVERT: ops.invert,
}


class Draws:
    """The random words of samples: ``words(block)`` gives four int64 [B] tensors of 32 bits for each sample."""

    def __init__(self, seed: int, epoch: Epoch, index: Tensor) -> None:
        self.seed, self.epoch, self.index = seed, epoch, index

    def words(self, block: int, epoch: Epoch | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four words a sample; ``epoch`` replaces the epoch in the counter."""
        return draw_bits(self.seed, Purpose.AUGMENT, self.epoch if epoch is None else epoch, self.index, block)


def randint(bits: Tensor, n: int) -> Tensor:
    """Map 32 random bits to an integer in [0, n): ``(bits · n) >> 32``."""
    return (bits * n) >> 32


def between(bits: Tensor, low: float, high: float) -> Tensor:
    """Map 32 random bits to ``low + (high − low) · u`` in fp32; low and high are fp32 values."""
    return low + float(np.float32(high - low)) * uniform(bits)


def apply_where(mask: Tensor, operation: Callable[..., Tensor], images: Tensor, *parameters: Tensor) -> Tensor:
    """``operation(images, *parameters)`` for the samples whose mask is set, the others unchanged."""
    if images.is_cuda:  # no host synchronisation
        return torch.where(ops.per_sample(mask), operation(images, *parameters), images)
    chosen = mask.nonzero().squeeze(1)
    if len(chosen) == 0:
        return images
    images = images.clone()
    images[chosen] = operation(images[chosen], *(p[chosen] for p in parameters))
    return images


def apply_kind(kind: Kind, images: Tensor, value: Tensor, *, bilinear: bool) -> Tensor:
    """One operation of a policy on uint8 [B, H, W, C]; ``value``: fp32 [B], its parameter per sample."""
    if kind is Kind.IDENTITY:
        return images
    if kind in _PIXEL_OPS:
        return _PIXEL_OPS[kind](images, value)
    size = (images.shape[1], images.shape[2])
    zero = torch.zeros_like(value)
    if kind in (Kind.TRANSLATE_X, Kind.TRANSLATE_Y):
        pixels, none = -value.to(torch.int64), zero.to(torch.int64)
        dy, dx = (pixels, none) if kind is Kind.TRANSLATE_Y else (none, pixels)
        return ops.shift(images, dy, dx, PadMode.ZERO)
    if kind is Kind.ROTATE:
        return ops.affine_map(-value, (zero, zero), zero + 1.0, (zero, zero), size).apply(images, bilinear)
    slopes = (value, zero) if kind is Kind.SHEAR_X else (zero, value)
    return ops.shear_map(*slopes, size).apply(images, bilinear)


def _affine(row: list[float], block: int, draws: Draws, images: Tensor) -> Tensor:
    first, second = draws.words(block), draws.words(block + 1)
    height, width = images.shape[1], images.shape[2]
    degrees = between(first[0], row[2], row[3])
    reach_x, reach_y = (float(np.float32(share * side)) for share, side in ((row[4], width), (row[5], height)))
    affine = ops.affine_map(
        -degrees if row[13] else degrees,
        (torch.round(between(first[1], -reach_x, reach_x)), torch.round(between(first[2], -reach_y, reach_y))),
        between(first[3], row[6], row[7]),
        (between(second[0], row[8], row[9]), between(second[1], row[10], row[11])),
        (height, width),
    )
    moved = affine.apply(images, bool(row[12]))
    return torch.where(ops.per_sample(uniform(second[2]) < row[1]), moved, images)


def _policy(compiled: Compiled, row: list[float], block: int, draws: Draws, images: Tensor) -> Tensor:
    rounds, entries, per_entry, bilinear, start = (int(v) for v in row[4:9])
    for number in range(rounds):
        words = draws.words(block + number)
        chosen = randint(words[0], entries)
        for k in range(per_entry):
            entry = compiled.policy[start + chosen * per_entry + k]
            kinds, chance, magnitude, sign = entry.unbind(1)
            negative = (sign != Sign.NONE) & ((words[3] >> (31 - k)) & 1).bool()
            value = torch.where(negative, -magnitude, magnitude)
            value = torch.where(sign == Sign.FACTOR, 1.0 + value, value)
            active = uniform(words[1 + k]) < chance
            for kind in sorted(
                {int(e[0]) for e in compiled.program.policy[start + k : start + entries * per_entry : per_entry]}
            ):
                operation = partial(apply_kind, Kind(kind), bilinear=bool(bilinear))
                images = apply_where(active & (kinds == kind), operation, images, value)
    return images


def _apply_row(compiled: Compiled, number: int, draws: Draws, images: Tensor) -> Tensor:
    row, block = compiled.program.rows[number], number * BLOCKS_PER_ROW
    kind = Kind(int(row[0]))
    if kind is Kind.POLICY:
        return _policy(compiled, row, block, draws, images)
    if kind is Kind.AFFINE:
        return _affine(row, block, draws, images)
    words = draws.words(block)
    if kind is Kind.CROP:
        padding = int(row[4])
        dy = randint(words[0], 2 * padding + 1) - padding + int(row[6])
        dx = randint(words[1], 2 * padding + 1) - padding + int(row[7])
        return ops.shift(images, dy, dx, PadMode(int(row[5])))
    if kind in (Kind.FLIP, Kind.ALTERNATING_FLIP):
        if kind is Kind.FLIP:
            mask = uniform(words[0]) < row[1]
        else:
            mask = (((draws.words(block, epoch=0)[0] & 1) + draws.epoch) & 1).bool()
        return torch.where(ops.per_sample(mask), images.flip(2), images)
    value = between(words[1], row[2], row[3])
    return apply_where(uniform(words[0]) < row[1], partial(apply_kind, kind, bilinear=bool(row[4])), images, value)


def augment_uint8(compiled: Compiled, images: Tensor, draws: Draws) -> Tensor:
    """Run the program's image operations on uint8 [B, H, W, C], one image per entry of ``draws.index``."""
    for number in range(len(compiled.program.rows)):
        images = _apply_row(compiled, number, draws, images)
    return images


def _to_output(edge: Tensor, side: int, out: int) -> Tensor:
    return torch.div(edge * out + side - 1, side, rounding_mode="floor")


def box_mask(program: Program, y1: Tensor, y2: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    """Output pixels whose nearest source pixel lies in the box, clipped to the image: bool [B, OH, OW]."""
    size = program.size
    rows = torch.arange(program.out_height, device=y1.device)[None, :, None]
    columns = torch.arange(program.out_width, device=y1.device)[None, None, :]
    edges = [_to_output(e.clamp(0, size.height), size.height, program.out_height)[:, None, None] for e in (y1, y2)]
    edges += [_to_output(e.clamp(0, size.width), size.width, program.out_width)[:, None, None] for e in (x1, x2)]
    return (rows >= edges[0]) & (rows < edges[1]) & (columns >= edges[2]) & (columns < edges[3])


def _holes(program: Program, draws: Draws) -> Tensor:
    cut = torch.zeros(
        len(draws.index), program.out_height, program.out_width, dtype=torch.bool, device=draws.index.device
    )
    length = program.cutout_length
    for number in range(program.cutout_count):
        words = draws.words(CUTOUT_BLOCK + number)
        if number == 0:
            active = uniform(words[2]) < program.settings[0]
        y1 = randint(words[0], program.size.height) - length // 2
        x1 = randint(words[1], program.size.width) - length // 2
        cut |= box_mask(program, y1, y1 + length, x1, x1 + length)
    return cut & active[:, None, None] if program.cutout_count else cut


@dataclass(frozen=True)
class Mix:
    """What is mixed into each sample: int64 [B] image numbers, fp32 [B] weights, bool masks."""

    partner: Tensor
    lam: Tensor
    mixed: Tensor  # bool [B]
    boxed: Tensor  # bool [B], CutMix rather than Mixup
    box: Tensor  # bool [B, OH, OW]


def draw_mix(
    program: Program, quantiles: Tensor, own: Draws, shared: Draws, source: Tensor, pool: Tensor | None, count: int
) -> Mix:
    """Draw partners, weights and boxes; ``shared`` is ``own`` or the draws of the batch's first sample."""
    batch = len(source)
    words = [w.expand(batch) for w in shared.words(MIX_BLOCK)]
    _, box_p, blend_p, box_start, blend_start = program.settings
    epoch = torch.as_tensor(own.epoch, device=source.device).reshape(())
    zero = torch.zeros((), device=source.device)
    box_chance = torch.where(epoch >= box_start, zero + box_p, zero)
    chance = box_chance + torch.where(epoch >= blend_start, zero + blend_p, zero)
    u = uniform(words[0])
    mixed, boxed = u < chance, u < box_chance

    size = count if pool is None else len(pool)
    position = randint(own.words(MIX_BLOCK + 1)[0], size)
    candidates = torch.stack([position, torch.where(position + 1 < size, position + 1, torch.zeros_like(position))])
    if pool is not None:
        candidates = pool[candidates]
    partner = torch.where(candidates[0] == source, candidates[1], candidates[0])

    table = torch.where(boxed, torch.zeros_like(source), torch.full_like(source, BETA_INTERVALS + 1)) + (words[1] >> 20)
    low, high = quantiles[table], quantiles[table + 1]
    lam = low + (high - low) * ((words[1] & 0xFFFFF).to(torch.float32) * 2.0**-20)

    height, width = program.size.height, program.size.width
    x, y = randint(words[2], width), randint(words[3], height)
    half = 0.5 * torch.sqrt(1.0 - lam)
    half_x, half_y = (half * width).to(torch.int64), (half * height).to(torch.int64)
    edges = (y - half_y, y + half_y, x - half_x, x + half_x)
    sides = [(b.clamp(0, n) - a.clamp(0, n)) for a, b, n in ((*edges[:2], height), (*edges[2:], width))]
    box_lam = 1.0 - ops.divide((sides[0] * sides[1]).to(torch.float32), float(height * width))
    lam = torch.where(mixed, torch.where(boxed, box_lam, lam), 1.0)
    return Mix(torch.where(mixed, partner, source), lam, mixed, boxed, box_mask(program, *edges))


def _picture(compiled: Compiled, images: Tensor, source: Tensor, draws: Draws, plain: Tensor | None) -> Tensor:
    program = compiled.program
    original = images.index_select(0, source)
    picked = augment_uint8(compiled, original, draws)
    if plain is not None:
        picked = torch.where(ops.per_sample(plain), original, picked)
    if program.resizes:
        picked = ops.resize(picked, program.out_height, program.out_width, program.nearest_resize)
    values = picked.to(torch.float32).mul_(compiled.scale_bias[0]).add_(compiled.scale_bias[1])
    if program.cutout_count:
        holes = _holes(program, draws)
        values.masked_fill_((holes if plain is None else holes & ~plain[:, None, None]).unsqueeze(3), 0.0)
    return values


def render(
    compiled: Compiled,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    draws: Callable[[Tensor], Draws],
    *,
    pool: Tensor | None,
    batch_key: Tensor,
    augmented_copy: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """One batch: fp32 [B, OH, OW, C] normalised and mixed, labels, labels_b, lam. Indices are valid."""
    program, count = compiled.program, len(images)
    plain = indices < count if augmented_copy else None
    source = torch.where(indices < count, indices, indices - count) if augmented_copy else indices
    own = draws(indices)
    values = _picture(compiled, images, source, own, plain)
    labels_a = labels.index_select(0, source)
    if not program.mixes:
        return values, labels_a, None, None
    shared = draws(batch_key) if program.mix_per_batch else own
    mix = draw_mix(program, compiled.quantiles, own, shared, source, pool, count)
    mixed = mix.mixed if plain is None else mix.mixed & ~plain
    partner = torch.where(mixed, mix.partner, source)
    lam = torch.where(mixed, mix.lam, 1.0)
    other = _picture(compiled, images, partner, draws(partner + count if augmented_copy else partner), None)
    weight = ops.per_sample(lam)
    blended = values * weight + other * (1.0 - weight)
    pasted = torch.where(mix.box.unsqueeze(3), other, values)
    result = torch.where(ops.per_sample(mix.boxed), pasted, blended)
    return torch.where(ops.per_sample(mixed), result, values), labels_a, labels.index_select(0, partner), lam
