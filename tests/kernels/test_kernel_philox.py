"""Philox4x32-10 against the known answers of Random123's distribution (``kat_vectors``), and its uniform numbers."""

import pytest
import torch

from cifarfast.kernels.philox import philox_4x32, uniform

KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = _words(counter)
    low, high = _words(key)
    words = philox_4x32(high << 32 | low, torch.tensor([c0]), c1, c2, torch.tensor(c3))
    assert [int(word) for word in words] == _words(expected)


def test_shapes_broadcast_and_draws_do_not_depend_on_their_neighbours() -> None:
    index, epoch = torch.arange(64).reshape(8, 1, 8), torch.arange(3).reshape(3, 1)
    words = philox_4x32(7, index, epoch)
    assert all(word.shape == (8, 3, 8) and word.dtype == torch.int64 for word in words)
    assert int(words[2][5, 2, 1]) == int(philox_4x32(7, torch.tensor([41]), 2)[2])


def test_uniform_range() -> None:
    ends = uniform(torch.tensor([0, 255, 256, 2**32 - 1]))
    assert ends.dtype == torch.float32
    assert ends.tolist() == [0.0, 0.0, 2.0**-24, 1 - 2.0**-24]


def test_uniform_moments() -> None:
    draws = torch.stack([uniform(word) for word in philox_4x32(1, torch.arange(50_000))]).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 5 / (12 * draws.numel()) ** 0.5
    assert abs(draws.var() - 1 / 12) < 0.001
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.03
