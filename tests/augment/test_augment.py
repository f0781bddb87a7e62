"""What Augment promises: the same picture for a sample whatever the batch, layouts, copies, pools, padding."""

import time

import pytest
import torch

from cifarfast.augment import (
    AlternatingFlip,
    Augment,
    AutoAugment,
    CutMix,
    Cutout,
    RandomCrop,
    RandomFlip,
    RandomRotation,
)

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
EVERYTHING = [RandomCrop(4), RandomFlip(), RandomRotation(15.0), AutoAugment(), Cutout(8), CutMix(1.0)]


def test_nothing_but_normalisation(cifar, backend):
    images, labels = cifar
    indices = torch.tensor([5, 0, 999])
    batch = Augment([], MEAN, STD, backend=backend)(images, labels, indices, 0)
    wanted = (images[indices].double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    assert torch.allclose(batch.images.double(), wanted.permute(0, 3, 1, 2), atol=1e-6)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.labels, labels[indices])
    assert batch.labels_b is None
    assert batch.lam is None


def test_a_sample_does_not_depend_on_its_batch(cifar, backend):
    augment = Augment(EVERYTHING, MEAN, STD, seed=9, backend=backend)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:96]
    whole = augment(*cifar, order, 4)
    parts = [augment(*cifar, part, 4) for part in order.flip(0).split(17)]
    for name in ("images", "labels", "labels_b", "lam"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined.flip(0), getattr(whole, name))


def test_epoch_and_seed_change_the_picture_and_torchs_generator_does_not(cifar, backend):
    augment = Augment(EVERYTHING, MEAN, STD, seed=9, backend=backend)
    indices = torch.arange(50)
    torch.manual_seed(1)
    first, state = augment(*cifar, indices, 4).images, torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(augment(*cifar, indices, 4).images, first)
    assert torch.equal(augment(*cifar, indices, torch.tensor([4])).images, first)
    assert not torch.equal(augment(*cifar, indices, 5).images, first)
    other = Augment(EVERYTHING, MEAN, STD, seed=10, backend=backend)
    assert not torch.equal(other(*cifar, indices, 4).images, first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_alternating_flip_mirrors_every_second_epoch(cifar, backend):
    augment = Augment([AlternatingFlip()], MEAN, STD, backend=backend)
    epochs = [augment(*cifar, torch.arange(400), epoch).images for epoch in range(4)]
    assert torch.equal(epochs[1], epochs[0].flip(3))
    assert torch.equal(epochs[2], epochs[0])
    assert torch.equal(epochs[3], epochs[1])
    plain = Augment([], MEAN, STD)(*cifar, torch.arange(400), 0).images
    kept = (epochs[0] == plain).flatten(1).all(1).float().mean()
    assert 0.4 < kept < 0.6


def test_layouts_and_padding_channels(cifar, backend):
    indices = torch.arange(40)
    plain = Augment(EVERYTHING, MEAN, STD, backend=backend)(*cifar, indices, 0).images
    first = Augment(EVERYTHING, MEAN, STD, backend=backend, channels_last=False)(*cifar, indices, 0).images
    assert first.is_contiguous()
    assert torch.equal(first, plain)
    for channels in (4, 8):
        padded = Augment(EVERYTHING, MEAN, STD, backend=backend, pad_channels=channels)(*cifar, indices, 0).images
        assert padded.shape == (40, channels, 32, 32)
        assert torch.equal(padded[:, :3], plain)
        assert not padded[:, 3:].any()
    for dtype in (torch.bfloat16, torch.float16):
        low = Augment(EVERYTHING, MEAN, STD, backend=backend, dtype=dtype)(*cifar, indices, 0).images
        assert torch.equal(low, plain.to(dtype))


def test_grey_images(backend):
    images = torch.randint(0, 256, (50, 28, 28, 1), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = Augment(EVERYTHING, [0.17], [0.33], backend=backend)(images, torch.arange(50), torch.arange(50), 0)
    assert batch.images.shape == (50, 1, 28, 28)
    assert batch.images.isfinite().all()


def test_augmented_copy_keeps_the_originals(cifar, backend):
    augment = Augment(EVERYTHING, MEAN, STD, backend=backend, augmented_copy=True)
    batch = augment(*cifar, torch.arange(2000), 0)
    plain = Augment([], MEAN, STD)(*cifar, torch.arange(1000), 0)
    assert torch.equal(batch.images[:1000], plain.images)
    assert (batch.lam[:1000] == 1).all()
    assert torch.equal(batch.labels, torch.cat([cifar[1], cifar[1]]))
    changed = (batch.images[1000:] != plain.images).flatten(1).any(1)
    assert changed.all()


def test_partners_come_from_the_pool(cifar, backend):
    numbers = torch.arange(1000)
    pool = torch.arange(3, 1000, 11)
    augment = Augment([CutMix(1.0)], MEAN, STD, backend=backend)
    batch = augment(cifar[0], numbers, pool, 0, pool=pool)
    assert torch.isin(batch.labels_b, pool).all()
    assert (batch.labels_b != batch.labels).all()


def test_empty_batch(cifar, backend):
    batch = Augment(EVERYTHING, MEAN, STD, backend=backend)(*cifar, torch.arange(0), 0)
    assert batch.images.shape == (0, 3, 32, 32)
    assert batch.lam.shape == (0,)


def test_evaluation_batch_takes_little_time(cifar, backend):
    """No more than half again what gathering and normalising by hand take, measured in turn."""
    images, labels = cifar
    augment, indices = Augment([], MEAN, STD, backend=backend), torch.arange(128)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)

    def by_hand():
        normalised = (images[indices].float() / 255 - mean) / std
        return normalised.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last), labels[indices]

    seconds = {"augment": [], "by hand": []}
    for _ in range(50):
        for name, call in (("augment", lambda: augment(images, labels, indices, 0)), ("by hand", by_hand)):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    assert min(seconds["augment"]) < 1.5 * min(seconds["by hand"])


@pytest.mark.parametrize("count", [1, 3])
def test_cutout_covers_at_most_its_squares(cifar, backend, count):
    images = torch.full((30, 32, 32, 3), 200, dtype=torch.uint8)
    batch = Augment([Cutout(6, count)], MEAN, STD, backend=backend)(images, torch.zeros(30).long(), torch.arange(30), 0)
    holes = (batch.images == 0).all(1).flatten(1).sum(1)
    assert holes.max() <= 36 * count
    assert holes.min() >= 9
