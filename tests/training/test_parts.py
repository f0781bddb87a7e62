"""Small parts: metrics, stateless randomness, channel statistics, layering of the tables."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from cifarfast.data.statistics import channel_statistics
from cifarfast.random import Purpose, draw_bits, permutation, step_seeds
from cifarfast.training.metrics import RunningMean, score


def test_score_is_sklearns() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 10, generator=generator), torch.randint(10, (500,), generator=generator)
    scores = score(logits, labels)
    probabilities = logits.double().softmax(1).numpy()
    assert scores.loss == pytest.approx(log_loss(labels.numpy(), probabilities, labels=range(10)), rel=1e-6)
    for k, ours in ((1, scores.accuracy_percent), (5, scores.top5_percent)):
        assert ours == pytest.approx(100 * top_k_accuracy_score(labels.numpy(), probabilities, k=k), abs=1e-9)


def test_score_of_few_classes() -> None:
    scores = score(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 1]))
    assert (scores.accuracy_percent, scores.top5_percent) == (50.0, 100.0)


def test_running_mean_weighs_by_images() -> None:
    running = RunningMean(torch.device("cpu"))
    assert all(math.isnan(mean) for mean in running.means())
    running.add(torch.tensor(1.0), torch.tensor([[1.0, 0.0]] * 3), torch.tensor([0, 0, 1]))
    running.add(torch.tensor(3.0), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert running.means() == running.peek() == (1.5, 75.0)
    again = RunningMean(torch.device("cpu"))
    again.load(running.state())
    assert again.means() == (1.5, 75.0)


@pytest.mark.gpu
def test_running_mean_does_not_wait_for_the_gpu() -> None:
    running = RunningMean(torch.device("cuda"))
    logits, labels = torch.eye(4, device="cuda"), torch.arange(4, device="cuda")
    loss = torch.tensor(2.0, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        running.add(loss, logits, labels)
        assert running.peek() is None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert running.peek() == (2.0, 100.0)


def test_permutation() -> None:
    order = permutation(1000, 1, Purpose.SHUFFLE, 0)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, permutation(1000, 1, Purpose.SHUFFLE, 0))
    for other in ((2, Purpose.SHUFFLE, 0), (1, Purpose.SUBSET, 0), (1, Purpose.SHUFFLE, 1)):
        assert (order != permutation(1000, *other)).float().mean() > 0.98
    places = torch.stack([permutation(50, 1, Purpose.SHUFFLE, epoch).argsort()[7] for epoch in range(1000)])
    expected = 1000 / 50
    chi_square = ((torch.bincount(places, minlength=50) - expected) ** 2 / expected).sum()
    assert chi_square < 94.6  # the 1 − 1e-4 quantile for 49 degrees of freedom


def test_step_seeds_do_not_depend_on_where_they_start() -> None:
    assert step_seeds(3, 0, 10)[4:] == step_seeds(3, 4, 6)
    assert len(set(step_seeds(3, 0, 1000))) == 1000
    assert all(0 <= seed < 2**63 for seed in step_seeds(3, 0, 1000))


def test_bits_are_keyed_by_everything() -> None:
    index = torch.arange(4)
    base = draw_bits(1, Purpose.AUGMENT, 2, index, 3)
    for other in (
        (5, Purpose.AUGMENT, 2, 3),
        (1, Purpose.STEP, 2, 3),
        (1, Purpose.AUGMENT, 3, 3),
        (1, Purpose.AUGMENT, 2, 4),
    ):
        assert not torch.equal(base[0], draw_bits(other[0], other[1], other[2], index, other[3])[0])


def test_channel_statistics_are_numpys() -> None:
    images = torch.randint(256, (20, 9, 7, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[..., 2] = 9
    mean, std = channel_statistics(images)
    pixels = images.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert std == pytest.approx([*pixels.std((0, 1, 2))[:2], 1.0])
