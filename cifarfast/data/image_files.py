"""Image files as what a model takes: found in folders, decoded, turned upright, made grey or coloured, resized."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)

_GREY_MODES = ("1", "L", "LA", "I", "F")


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
    """One image file as uint8 ``[side, side, channels]``, as ``to_pixels`` makes it.

    Raises:
        UserError: the file cannot be read, is not an image, or has pixels of a kind that has no fixed range.
    """
    with quiet_pillow(), open_image(path) as image:
        return to_pixels(image, side, channels)


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings of Pillow about damaged EXIF entries and large images. For a whole process, so not for threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The image in a file; what goes wrong in it becomes a UserError that begins with the path."""
    try:
        with Image.open(path) as image:
            yield image
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or of a format that Pillow does not read") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files
        raise UserError(f"{path}: cannot be decoded: {' '.join(str(error).split())}") from None


def to_pixels(image: Image.Image, side: int | None, channels: int | None) -> np.ndarray:
    """An image as uint8 ``[H, W, C]``, the same for training, for ``predict`` and in Python.

    It is turned upright as its EXIF orientation says and resized as a whole (bilinear, antialiased; the aspect ratio
    may change). 16-bit grey is scaled by 255 / 65535; of several frames the current one is taken, in a file the first;
    transparency is dropped.

    Args:
        image: of any mode.
        side: height and width of the result; None leaves the size as it is.
        channels: 1 makes colours grey by ITU-R 601, 3 repeats grey; None is 1 for grey images and 3 for others.

    Raises:
        UserError: pixels of a kind that has no fixed range.
    """
    image = ImageOps.exif_transpose(image)
    if channels is None:
        channels = 1 if image.mode.partition(";")[0] in _GREY_MODES else 3
    pixels = _eight_bits(image).convert("L" if channels == 1 else "RGB")
    if side is not None and pixels.size != (side, side):
        pixels = pixels.resize((side, side), Image.Resampling.BILINEAR)
    return np.array(pixels).reshape(pixels.height, pixels.width, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel."""
    kind = image.mode.partition(";")[0]
    if kind not in ("I", "F"):
        return image
    values = np.asarray(image)
    if kind == "F" or values.min() < 0 or values.max() > 65535:
        raise UserError(f"its pixels ({image.mode}) have no fixed range: convert it to 8 or 16 bits a channel")
    return Image.fromarray(np.round(values * (255 / 65535)).astype(np.uint8))
