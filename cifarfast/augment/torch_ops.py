"""Image operations on batches of uint8 [B, H, W, C] in plain torch, with one parameter per sample.

They do the same arithmetic in the same order as ``csrc/``, in fp32 without fused multiply-add, so they give the same
bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .program import PadMode

_RADIANS = 0.017453292519943295
_SINE = (-0.16666667, 0.0083333333, -0.00019841270, 2.7557319e-6)
_COSINE = (-0.5, 0.041666667, -0.0013888889, 2.4801587e-5)


def per_sample(values: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1]."""
    return values[:, None, None, None]


def divide(numerator: Tensor, denominator: float) -> Tensor:
    """A true division: torch multiplies by the reciprocal of a Python number on CUDA."""
    return numerator / torch.full_like(numerator, denominator)


def to_byte(values: Tensor) -> Tensor:
    """Clamp to 0…255 and drop the fraction."""
    return values.clamp(0.0, 255.0).to(torch.uint8)


def blend(values: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """``values · factor + other · (1 − factor)`` as bytes."""
    factor = per_sample(factor)
    return to_byte(values * factor + other * (1.0 - factor))


def grey(images: Tensor) -> Tensor:
    """The grey value of each pixel, a whole number: fp32 [B, H, W, 1]."""
    values = images.to(torch.float32)
    if images.shape[3] != 3:
        return values[..., :1]
    red, green, blue = values.unbind(3)
    return ((0.2989 * red + 0.587 * green) + 0.114 * blue).floor().unsqueeze(3)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """``v · factor``."""
    return to_byte(images.to(torch.float32) * per_sample(factor))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey value."""
    total = grey(images).to(torch.int64).sum((1, 2, 3)).to(torch.float32)
    mean = divide(total, float(images.shape[1] * images.shape[2]))
    return blend(images.to(torch.float32), per_sample(mean), factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return images if images.shape[3] != 3 else blend(images.to(torch.float32), grey(images), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a 3×3 blur (1 1 1, 1 5 1, 1 1 1) / 13 rounded to whole numbers; the outermost pixels stay."""
    _, height, width, _ = images.shape
    if height < 3 or width < 3:
        return images
    values = images.to(torch.int32)
    total = 4 * values[:, 1:-1, 1:-1]
    for dy in range(3):
        for dx in range(3):
            total = total + values[:, dy : height - 2 + dy, dx : width - 2 + dx]
    blurred = torch.div(2 * total + 13, 26, rounding_mode="floor").to(torch.float32)
    inner = values[:, 1:-1, 1:-1].to(torch.float32)
    result = images.clone()
    result[:, 1:-1, 1:-1] = to_byte(inner + (1.0 - per_sample(factor)) * (blurred - inner))
    return result


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` bits."""
    mask = torch.bitwise_right_shift(torch.full_like(bits, 0xFF00, dtype=torch.int32), bits.to(torch.int32)) & 0xFF
    return images & per_sample(mask).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values of at least ``threshold``."""
    return torch.where(images.to(torch.float32) >= per_sample(threshold), 255 - images, images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    """``255 − v``."""
    return 255 - images


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel's range to 0…255; a constant channel stays."""
    low = images.amin((1, 2), keepdim=True).to(torch.float32)
    high = images.amax((1, 2), keepdim=True).to(torch.float32)
    scale = torch.where(high > low, (high - low) * 0.003921568859368563, 1.0)
    stretched = to_byte((images.to(torch.float32) - low) / scale)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Equalize each channel's histogram as Pillow does; a channel with too few values stays."""
    batch, height, width, channels = images.shape
    flat = images.permute(0, 3, 1, 2).flatten(2).to(torch.int64)
    histogram = torch.zeros(batch, channels, 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, flat, torch.ones_like(flat))
    highest = flat.amax(2, keepdim=True)
    step = torch.div(height * width - histogram.gather(2, highest), 255, rounding_mode="floor")
    below = histogram.cumsum(2) - histogram
    safe = step.clamp(min=1)
    table = torch.div(below + torch.div(safe, 2, rounding_mode="floor"), safe, rounding_mode="floor").clamp(0, 255)
    equalized = torch.where(step == 0, flat, table.gather(2, flat))
    return equalized.to(torch.uint8).reshape(batch, channels, height, width).permute(0, 2, 3, 1).contiguous()


def source_index(position: Tensor, side: int, mode: PadMode) -> tuple[Tensor, Tensor]:
    """Where a coordinate that may lie outside [0, side) is read, and whether anything is shown there."""
    inside = (position >= 0) & (position < side)
    if mode is PadMode.REFLECT:
        position = torch.where(position < 0, -position, position)
        position = torch.where(position >= side, 2 * (side - 1) - position, position)
    position = position.clamp(0, side - 1)
    return position, inside if mode is PadMode.ZERO else torch.ones_like(inside)


def pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``images[b, rows[b, i], columns[b, i]]`` for int64 rows, columns [B, n]: [B, n, C]."""
    width, channels = images.shape[2:]
    position = (rows * width + columns).unsqueeze(2).expand(-1, -1, channels)
    return images.flatten(1, 2).gather(1, position)


def shift(images: Tensor, dy: Tensor, dx: Tensor, mode: PadMode) -> Tensor:
    """Output (y, x) is input (y + dy, x + dx); dy, dx: int64 [B]."""
    batch, height, width, _ = images.shape
    rows, row_inside = source_index(torch.arange(height, device=images.device) + dy[:, None], height, mode)
    columns, column_inside = source_index(torch.arange(width, device=images.device) + dx[:, None], width, mode)
    full = (batch, height, width)
    moved = pick(images, rows[:, :, None].expand(full).flatten(1), columns[:, None, :].expand(full).flatten(1)).view(
        images.shape
    )
    if mode is PadMode.ZERO:
        moved = moved * (row_inside[:, :, None] & column_inside[:, None, :]).unsqueeze(3)
    return moved


def sincos_degrees(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine by quadrant and Taylor polynomial on ±45°; error below 4e-7."""
    quadrant = torch.round(degrees * 0.011111111)
    r = (degrees - quadrant * 90.0) * _RADIANS
    r2 = r * r
    sine = r * (1.0 + r2 * (_SINE[0] + r2 * (_SINE[1] + r2 * (_SINE[2] + r2 * _SINE[3]))))
    cosine = 1.0 + r2 * (_COSINE[0] + r2 * (_COSINE[1] + r2 * (_COSINE[2] + r2 * _COSINE[3])))
    turn = quadrant.to(torch.int64) & 3
    swap = (turn & 1).bool()
    s, c = torch.where(swap, cosine, sine), torch.where(swap, sine, cosine)
    return torch.where(turn >= 2, -s, s), torch.where((turn == 1) | (turn == 2), -c, c)


@dataclass(frozen=True)
class AffineMap:
    """Source x = m[0]·x + m[1]·y + m[2] with x, y from the image's centre; source y likewise. Six fp32 [B]."""

    m: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

    def coordinates(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Source (y, x) of every output pixel, fp32 [B, H, W], clamped to just outside the image."""
        device = self.m[0].device
        x = (torch.arange(width, device=device, dtype=torch.float32) + (0.5 - width * 0.5))[None, None, :]
        y = (torch.arange(height, device=device, dtype=torch.float32) + (0.5 - height * 0.5))[None, :, None]
        a, b, c, d, e, f = (v[:, None, None] for v in self.m)
        return ((d * x + e * y) + f).clamp(-2.0, height + 1.0), ((a * x + b * y) + c).clamp(-2.0, width + 1.0)

    def apply(self, images: Tensor, bilinear: bool) -> Tensor:
        """Move the images; what lies outside is 0."""
        height, width = images.shape[1:3]
        y, x = self.coordinates(height, width)
        if not bilinear:
            return _tap(images, torch.round(y).to(torch.int64), torch.round(x).to(torch.int64))
        y0, x0 = y.floor(), x.floor()
        wy, wx = (y - y0).unsqueeze(3), (x - x0).unsqueeze(3)
        row, column = y0.to(torch.int64), x0.to(torch.int64)
        taps = [_tap(images, row + dy, column + dx).to(torch.float32) for dy in (0, 1) for dx in (0, 1)]
        upper = ((1.0 - wy) * (1.0 - wx)) * taps[0] + ((1.0 - wy) * wx) * taps[1]
        lower = (wy * (1.0 - wx)) * taps[2] + (wy * wx) * taps[3]
        return to_byte(torch.round(upper + lower))


def _tap(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = images.shape[1:3]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    picked = pick(images, rows.flatten(1), columns.flatten(1)).view(images.shape)
    return picked * inside.unsqueeze(3)


def affine_map(
    degrees: Tensor,
    translate: tuple[Tensor, Tensor],
    scale: Tensor,
    shear: tuple[Tensor, Tensor],
    size: tuple[int, int],
) -> AffineMap:
    """The inverse of translate · rotate (degrees clockwise) · scale · shear about the centre; size: (height, width)."""
    height, width = size
    sine, cosine = sincos_degrees(degrees)
    sine_x, cosine_x = sincos_degrees(shear[0])
    _, cosine_y = sincos_degrees(shear[1])
    sine_d, cosine_d = sincos_degrees(degrees - shear[1])
    tangent = sine_x / cosine_x
    f0 = cosine_d / cosine_y
    f1 = -(f0 * tangent + sine)
    f2 = sine_d / cosine_y
    f3 = cosine - f2 * tangent
    a, b, d, e = f3 / scale, -f1 / scale, -f2 / scale, f0 / scale
    x = -(a * translate[0] + b * translate[1]) + (width * 0.5 - 0.5)
    y = -(d * translate[0] + e * translate[1]) + (height * 0.5 - 0.5)
    return AffineMap((a, b, x, d, e, y))


def shear_map(slope_x: Tensor, slope_y: Tensor, size: tuple[int, int]) -> AffineMap:
    """Shear by a slope about the top left corner, as the policies do."""
    height, width = size
    one = torch.ones_like(slope_x)
    x = slope_x * (height * 0.5) + (width * 0.5 - 0.5)
    y = slope_y * (width * 0.5) + (height * 0.5 - 0.5)
    return AffineMap((one, slope_x, x, slope_y, one, y))


def resize(images: Tensor, out_height: int, out_width: int, nearest: bool) -> Tensor:
    """Enlarge: half-pixel bilinear rounded to whole values, or nearest."""
    _, height, width, _ = images.shape
    if nearest:
        rows = torch.arange(out_height, device=images.device) * height // out_height
        columns = torch.arange(out_width, device=images.device) * width // out_width
        return images[:, rows][:, :, columns]
    row, next_row, wy = _axis(height, out_height, images.device)
    column, next_column, wx = _axis(width, out_width, images.device)
    wy, wx = wy[None, :, None, None], wx[None, None, :, None]
    values = images.to(torch.float32)
    upper = values[:, row][:, :, column] * (1.0 - wx) + values[:, row][:, :, next_column] * wx
    lower = values[:, next_row][:, :, column] * (1.0 - wx) + values[:, next_row][:, :, next_column] * wx
    return to_byte(torch.round(upper * (1.0 - wy) + lower * wy))


def _axis(side: int, out: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    ratio = torch.full((), float(side), device=device) / torch.full((), float(out), device=device)
    at = (torch.arange(out, device=device, dtype=torch.float32) + 0.5) * ratio - 0.5
    at = at.clamp(0.0, float(side - 1))
    first = at.floor()
    index = first.to(torch.int64)
    return index, (index + 1).clamp(max=side - 1), at - first
