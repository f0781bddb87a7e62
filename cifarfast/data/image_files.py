"""Image files as what a model takes: decoded within bounds, turned upright, made grey or coloured, resized."""

import contextlib
import functools
import importlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from ..errors import UserError
from ..runtime.files import open_regular

Background = Literal["white", "black", "none"]

MAX_PIXELS = 100_000_000  # of one image; decoding takes up to 16 bytes a pixel
_MAX_FILE_BYTES = 2**29
_LARGE_PIXELS = 2**24
_one_large_image = threading.Lock()  # of many threads, so that their memory does not add up

_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg"),
    *(".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": None}  # module → what is to be called after import
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Suffixes of the image files that are read here, HEIC and AVIF where this Pillow or a plug-in of it reads them."""
    for module, function in _PLUGINS.items():
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if function:
                getattr(plugin, function)()
    Image.init()
    formats = Image.registered_extensions()
    lacking = set() if features.check("jpg_2000") else {"JPEG2000"}
    return tuple(suffix for suffix in _SUFFIXES if formats.get(suffix) in set(Image.OPEN) - lacking)


def is_image(path: Path) -> bool:
    """Whether a file begins as an image of a known format, whatever its name."""
    formats = {Image.registered_extensions()[suffix] for suffix in image_suffixes()} - {"TGA"}  # it has no beginning
    try:
        with quiet_pillow(), open_regular(path, _MAX_FILE_BYTES) as file, Image.open(file, formats=sorted(formats)):
            return True
    except Exception:  # Pillow's decoders raise errors of many kinds on what is no image
        return False


def read_image(path: Path, side: int, channels: int, background: Background = "white") -> np.ndarray:
    """One image file as uint8 ``[side, side, channels]``, as ``to_pixels`` makes it.

    Raises:
        UserError: the file cannot be read, is not an image, is too large, or has pixels that have no fixed range.
    """
    with quiet_pillow(), open_image(path) as image:
        return to_pixels(image, side, channels, background)


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings of Pillow about damaged EXIF entries and large images. For a whole process, so not for threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The image in a file; what goes wrong in it becomes a UserError that begins with the path."""
    image_suffixes()  # registers the plug-ins
    try:
        with open_regular(path, _MAX_FILE_BYTES) as file, Image.open(file) as image:
            yield image
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(str(path)).removeprefix(':').strip()}") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or of a format that Pillow does not read") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files
        raise UserError(f"{path}: cannot be decoded: {' '.join(str(error).split())}") from None


def to_pixels(
    image: Image.Image, side: int | None, channels: int | None, background: Background = "white"
) -> np.ndarray:
    """An image as uint8 ``[H, W, C]``, the same for training, for ``predict`` and in Python.

    It is turned upright as its EXIF orientation says and resized as a whole (bilinear, antialiased; the aspect ratio
    may change). 16-bit grey is scaled by 255 / 65535, unless no value is above 255: then the values stay as they are.
    Of several frames the current one is taken, in a file the first.

    Args:
        image: of any mode.
        side: height and width of the result; None leaves the size as it is.
        channels: 1 makes colours grey by ITU-R 601, 3 repeats grey; None is 1 for grey images and 3 for others.
        background: what shows through where the image is transparent; "none" takes the colours that lie under
            the transparency.

    Raises:
        UserError: more than ``MAX_PIXELS`` pixels, or pixels of a kind that has no fixed range.
    """
    count = image.width * image.height
    if count > MAX_PIXELS:
        raise UserError(f"it has {image.width:,}×{image.height:,} pixels, at most {MAX_PIXELS:,} are read: shrink it")
    with _one_large_image if count > _LARGE_PIXELS else contextlib.nullcontext():
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if channels is None:
            channels = 1 if image.mode.partition(";")[0] in _GREY_MODES else 3
        pixels = _composed(_eight_bits(image, background), background).convert("L" if channels == 1 else "RGB")
        if side is not None and pixels.size != (side, side):
            pixels = pixels.resize((side, side), Image.Resampling.BILINEAR)
        return np.array(pixels).reshape(pixels.height, pixels.width, channels)


def _composed(image: Image.Image, background: Background) -> Image.Image:
    """The image without transparency, on the background."""
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if background == "none" or not transparent:
        return image
    level = _level(background)
    canvas = Image.new("RGBA", image.size, (level, level, level, 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("L" if image.mode in _GREY_MODES else "RGB")


def _level(background: Background) -> int:
    return 255 if background == "white" else 0


def _eight_bits(image: Image.Image, background: Background) -> Image.Image:
    """The image with 8 bits a channel. The one grey that a 16-bit image may declare transparent is composed here."""
    kind = image.mode.partition(";")[0]
    if kind not in ("I", "F"):
        return image
    values = np.asarray(image)
    high = values.max()
    if kind == "F" or values.min() < 0 or high > 65535:
        raise UserError(f"its pixels ({image.mode}) have no fixed range: convert it to 8 or 16 bits a channel")
    table = np.round(np.arange(65536) * (255 / 65535 if high > 255 else 1)).clip(0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if background != "none" and isinstance(transparent, int) and 0 <= transparent <= high:
        table[transparent] = _level(background)
    flat, out = values.reshape(-1), np.empty(values.size, np.uint8)
    for start in range(0, values.size, 2**20):  # an index takes eight bytes a pixel
        out[start : start + 2**20] = table[flat[start : start + 2**20]]
    return Image.fromarray(out.reshape(values.shape))
