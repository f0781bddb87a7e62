"""`digits`: the 1,797 handwritten digits that scikit-learn carries, for trying things without a download."""

import numpy as np

from ..errors import UserError
from .base import Splits, hold_out_test, make_dataset
from .upscale import upscale

DIGITS = tuple("0123456789")
_SOURCE_SIZE, _DEFAULT_SIZE, _LARGEST = 8, 32, 256


def load_digits(image_size: int | None = None) -> Splits:
    """scikit-learn's `load_digits`: 8×8 images with values 0…16, here uint8 ``[N, S, S, 1]`` with values 0…255.

    Upscaled bilinearly to ``image_size`` (32 unless given). About a fifth of every class is the test part, by the fixed
    rule of `hold_out_test`. It is scikit-learn's own file, so ``official`` is True.

    Raises:
        UserError: ``image_size`` below 8 or above 256.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    size = _DEFAULT_SIZE if image_size is None else image_size
    if not _SOURCE_SIZE <= size <= _LARGEST:
        raise UserError(f"image_size is {size}, allowed for digits is {_SOURCE_SIZE}…{_LARGEST}")
    bunch = sklearn_digits()
    images = upscale(bunch.images.astype(np.int64), size, maximum=16)[..., None]
    whole = make_dataset(images, bunch.target, DIGITS, official=True, source="digits")
    train, test = hold_out_test(whole)
    return Splits("digits", train, None, test)
