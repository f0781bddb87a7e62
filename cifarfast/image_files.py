"""Image files as what a model takes: found in folders, decoded, turned upright, made grey or coloured, resized."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import UserError

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)


def list_images(path: Path) -> list[Path]:
    """The file itself, or the images in a folder and the folders below it, sorted; hidden ones are passed over.

    Raises:
        UserError: there is nothing at ``path``, or no image in the folder.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return [path]
    found = [
        entry
        for entry in sorted(path.rglob("*"))
        if entry.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in entry.relative_to(path).parts)
        and entry.is_file()
    ]
    if not found:
        raise UserError(f"{path}: there is no image in this folder ({', '.join(SUFFIXES)})")
    return found


def read_image(path: Path, side: int, channels: int) -> np.ndarray:
    """One image as uint8 ``[side, side, channels]``.

    It is turned upright as its EXIF orientation says and resized as a whole (bilinear, antialiased; the aspect ratio
    may change), as images in class folders are for training. Colours become grey by ITU-R 601 where ``channels`` is 1;
    grey is repeated where it is 3; 16-bit grey is scaled by 255 / 65535; of several frames the first is taken;
    transparency is dropped, as in training.

    Raises:
        UserError: the file cannot be read, is not an image, or has pixels of a kind that has no fixed range.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # of Pillow about damaged EXIF entries and large images
            upright = ImageOps.exif_transpose(image)
            pixels = _eight_bits(upright, path).convert("L" if channels == 1 else "RGB")
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or of a format that Pillow does not read") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files
        raise UserError(f"{path}: cannot be decoded: {' '.join(str(error).split())}") from None
    if pixels.size != (side, side):
        pixels = pixels.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(pixels).reshape(side, side, channels)


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """The image with 8 bits a channel."""
    kind = image.mode.partition(";")[0]
    if kind not in ("I", "F"):
        return image
    values = np.asarray(image)
    if kind == "F" or values.min() < 0 or values.max() > 65535:
        raise UserError(f"{path}: its pixels ({image.mode}) have no fixed range: convert it to 8 or 16 bits a channel")
    return Image.fromarray(np.round(values * (255 / 65535)).astype(np.uint8))
