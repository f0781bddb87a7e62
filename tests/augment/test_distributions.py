"""What is drawn has the distribution it should have; mixed labels add up."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, chisquare, kstest

from cifarfast.augment import Augment, CutMix, Cutout, Mixup, RandomCrop, RandomFlip
from cifarfast.augment.mixing import beta_quantiles

N = 20_000


@pytest.fixture(scope="module")
def marked() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of which each pixel's value says where it is: 1 + 9·y + x on 9×9 grey pixels; labels are image numbers."""
    image = (1 + torch.arange(81, dtype=torch.uint8)).reshape(1, 9, 9, 1)
    return image.expand(N, 9, 9, 1).contiguous(), torch.arange(N)


def run(transforms, data, indices=None, epoch=0, **options):
    augment = Augment(transforms, [0.0], [1 / 255], seed=4, **options)
    return augment(*data, torch.arange(N) if indices is None else indices, epoch)


def test_crop_offsets_are_uniform(marked):
    centre = run([RandomCrop(4)], marked).images[:, 0, 4, 4].long() - 1
    assert chisquare(torch.bincount(centre, minlength=81).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_flip_frequency(marked, p):
    flipped = (run([RandomFlip(p)], marked).images[:, 0, 0, 0] == 9).float().mean().item()
    assert abs(flipped - p) < 4 * (p * (1 - p) / N) ** 0.5 + 1e-9


def test_cutout_centres_are_uniform(marked):
    holes = (run([Cutout(1)], marked).images == 0).flatten(1)
    assert (holes.sum(1) == 1).all()
    assert chisquare(holes.sum(0).numpy()).pvalue > 1e-3
    untouched = (run([Cutout(3, p=0.3)], marked).images != 0).flatten(1).all(1).float().mean().item()
    assert abs(untouched - 0.7) < 0.015


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 4.0, 50.0])
def test_beta_quantiles(alpha):
    table = beta_quantiles(alpha)
    wanted = beta(alpha, alpha).ppf(np.linspace(0.0, 1.0, len(table)))
    assert np.abs(table - wanted).max() < 1e-4
    assert (np.diff(table) >= 0).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_weight_is_beta_distributed(marked, alpha):
    lam = run([Mixup(alpha)], marked).lam.double().numpy()
    lower = lam[lam < 0.5]  # the upper half is its mirror image, rounded to 1 where fp32 is too coarse
    assert abs(len(lower) / N - 0.5) < 0.015
    assert kstest(lower, lambda x: 2 * beta(alpha, alpha).cdf(x)).pvalue > 1e-3


def test_cutmix_box_area_and_weight():
    count, side = 4000, 32
    images = torch.zeros(2 * count, side, side, 1, dtype=torch.uint8)
    labels = torch.arange(2 * count)
    images += (1 + (labels % 2)).to(torch.uint8)[:, None, None, None]
    batch = Augment([CutMix(1.0)], [0.0], [1 / 255], seed=1)(images, labels, torch.arange(2 * count), 0)
    other = batch.images[:, 0] != (1 + batch.labels % 2)[:, None, None]
    differs = batch.labels_b % 2 != batch.labels % 2
    area = other.flatten(1).float().mean(1)
    assert torch.allclose(1 - area[differs], batch.lam[differs], atol=1e-6)
    # the box of side r = √(1−λ'), centre uniform: torchvision's CutMix without the clipping has mean area 1/2
    rng = np.random.default_rng(0)
    half = (0.5 * np.sqrt(1 - rng.beta(1, 1, N)) * side).astype(int)
    y, x = rng.integers(0, side, (2, N))
    clip = lambda centre: np.clip(centre + half, 0, side) - np.clip(centre - half, 0, side)  # noqa: E731
    wanted = clip(y) * clip(x) / side**2
    assert abs(float(1 - batch.lam.mean()) - wanted.mean()) < 0.01


def test_label_mass_and_partners(marked):
    for transforms in ([CutMix(1.0)], [Mixup(0.3)], [CutMix(1.0), Mixup(0.3)]):
        batch = run(transforms, marked)
        assert ((batch.lam >= 0) & (batch.lam <= 1)).all()
        assert (batch.labels_b != batch.labels).all()  # labels are image numbers: never with itself
        counts = torch.bincount(batch.labels_b * 20 // N, minlength=20)
        assert chisquare(counts.numpy()).pvalue > 1e-3
    pair = (marked[0][:2].contiguous(), marked[1][:2])
    batch = run([Mixup(1.0)], pair, indices=torch.tensor([0, 1, 0, 1]))
    assert batch.labels_b.tolist() == [1, 0, 1, 0]


def test_probability_and_start_of_mixing(marked):
    batch = run([CutMix(1.0, probability=0.4)], marked)
    mixed = batch.labels_b != batch.labels
    assert abs(mixed.float().mean().item() - 0.4) < 0.015
    assert (batch.lam[~mixed] == 1).all()
    late = [CutMix(1.0, start_epoch=3)]
    assert (run(late, marked, epoch=2).lam == 1).all()
    assert (run(late, marked, epoch=3).labels_b != marked[1]).all()
    both = run([CutMix(1.0, probability=0.6, start_epoch=1), Mixup(1.0, probability=0.6)], marked)
    assert abs((both.labels_b != both.labels).float().mean().item() - 0.3) < 0.015  # only Mixup's half yet


def test_per_batch_mixing_shares_weight_and_box(marked):
    first, second = torch.arange(64), torch.arange(64, 128)
    one, two = (run([CutMix(1.0, per="batch")], marked, indices=i) for i in (first, second))
    assert len(one.lam.unique()) == len(two.lam.unique()) == 1
    assert one.lam[0] != two.lam[0]
    assert len(run([CutMix(1.0)], marked, indices=first).lam.unique()) > 10
    mixed = [bool((run([Mixup(1.0, 0.5, "batch")], marked, indices=first + k).lam != 1).all()) for k in range(60)]
    assert 15 < sum(mixed) < 45
