"""A picture of what an augmentation does: originals on the left, the same images in successive epochs beside them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .augmenter import Augment, Batch

_GAP = 6
_CAPTION = 24


def to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation: [B, C, H, W] → uint8 [B, H, W, C] of the first len(mean) channels."""
    channels = len(mean)
    values = images[:, :channels].detach().to("cpu", torch.float32).permute(0, 2, 3, 1)
    pixels = (values * torch.tensor(std) + torch.tensor(mean)) * 255.0
    return pixels.round().clamp(0.0, 255.0).to(torch.uint8)


def caption(batch: Batch, position: int, classes: Sequence[str]) -> list[str]:
    """One line a label, with its weight when the image is mixed."""
    first = classes[int(batch.labels[position])]
    if batch.labels_b is None or batch.lam is None or float(batch.lam[position]) == 1.0:
        return [first]
    lam = float(batch.lam[position])
    return [f"{lam:.2f} {first}", f"{1.0 - lam:.2f} {classes[int(batch.labels_b[position])]}"]


def _tile(pixels: Tensor, side: int) -> Image.Image:
    array = pixels.numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def save_preview(
    path: Path | str,
    augment: Augment,
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    *,
    rows: int = 8,
    epochs: Sequence[int] = tuple(range(8)),
    side: int = 96,
) -> None:
    """Write a PNG with one row for each of the first ``rows`` images and one column an epoch, labels below each tile.

    Args:
        path: of the PNG file.
        augment: what is shown. With ``augmented_copy`` the copies are shown.
        images: uint8 [N, H, W, C]. labels: int64 [N]. classes: names.
        epochs: the epochs shown.
        side: of a tile in pixels.
    """
    rows = min(rows, len(images))
    indices = torch.arange(rows, device=images.device)
    drawn = indices + len(images) if augment.augmented_copy else indices
    original = Batch(images[:rows], labels[:rows])
    columns = [("original", original, original.images.cpu())]
    for epoch in epochs:
        batch = augment(images, labels, drawn, epoch)
        columns.append((f"epoch {epoch + 1}", batch, to_pixels(batch.images, augment.mean, augment.std)))

    step_x, step_y = side + _GAP, side + _CAPTION + _GAP
    size = (len(columns) * step_x + _GAP, rows * step_y + _CAPTION + _GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=10)
    for x, (title, batch, pixels) in enumerate(columns):
        left = _GAP + x * step_x
        draw.text((left, _GAP), title, fill="black", font=font)
        for y in range(rows):
            top = _CAPTION + y * step_y
            canvas.paste(_tile(pixels[y], side), (left, top))
            for line, text in enumerate(caption(batch, y, classes)):
                draw.text((left, top + side + 11 * line), text, fill="black", font=font)
    canvas.save(Path(path))
