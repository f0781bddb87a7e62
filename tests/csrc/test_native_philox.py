"""csrc/philox.h gives the words of kernels/philox.py."""

import pytest
import torch

from cifarfast import _build
from cifarfast.kernels.philox import philox_4x32


def test_same_words():
    module = _build.load()
    if module is None:
        pytest.skip(_build.status().reason)
    generator = torch.Generator().manual_seed(0)
    for row in torch.randint(0, 2**32, (50, 6), generator=generator).tolist():
        key = row[0] << 31 | row[1]
        wanted = philox_4x32(key, torch.tensor(row[2]), *row[3:])
        assert module.philox_4x32(key, *row[2:]) == tuple(int(word) for word in wanted)
