"""csrc/philox.h gives the words of kernels/philox.py."""

import pytest
import torch

from cifarfast.kernels.philox import philox_4x32
from cifarfast.runtime import native_build


def test_same_words():
    module = native_build.load()
    if module is None:
        pytest.skip(native_build.status().reason)
    generator = torch.Generator().manual_seed(0)
    for row in torch.randint(0, 2**32, (50, 6), generator=generator).tolist():
        key = row[0] << 31 | row[1]
        wanted = philox_4x32(key, torch.tensor(row[2]), *row[3:])
        assert module.philox_4x32(key, *row[2:]) == tuple(int(word) for word in wanted)
