"""Mixed pictures and their labels against the formulas, in both backends."""

import torch
from torch import Tensor

from cifarfast.augment import Augment, CutMix, Mixup, Transform

COUNT = 200


def mixed(transform: Transform, backend: str, count: int = COUNT) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images fp32 [N, 12, 10] of one value each, 1 + its number, mixed; labels, labels_b, lam."""
    numbers = torch.arange(count)
    images = (1 + numbers).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 12, 10, 1).contiguous()
    batch = Augment([transform], [0.0], [1 / 255], seed=5, backend=backend)(images, numbers, numbers, 0)
    assert batch.labels_b is not None
    assert batch.lam is not None
    return batch.images[:, 0], batch.labels, batch.labels_b, batch.lam


def test_cutmix_pastes_a_box_and_its_weight_is_the_share_that_stays(backend):
    pictures, labels, labels_b, lam = mixed(CutMix(1.0), backend)
    assert torch.equal(labels, torch.arange(COUNT))
    assert (labels_b != labels).all()
    own, other = (1 + which.float().view(-1, 1, 1) for which in (labels, labels_b))
    pasted = pictures == other
    assert torch.equal(pictures, torch.where(pasted, other, own))
    assert torch.allclose(lam, 1 - pasted.float().mean((1, 2)))
    rows, columns = pasted.any(2), pasted.any(1)
    assert torch.equal(pasted, rows.unsqueeze(2) & columns.unsqueeze(1))
    assert lam.std() > 0.1
    assert rows[:, -1].any()  # boxes that hang over an edge are among them


def test_mixup_blends_by_the_labels_weight(backend):
    pictures, labels, labels_b, lam = mixed(Mixup(0.5), backend)
    assert (labels_b != labels).all()
    blend = lam * (1 + labels) + (1 - lam) * (1 + labels_b)
    assert torch.allclose(pictures, blend.view(-1, 1, 1).expand_as(pictures), rtol=1e-5)
    assert lam.std() > 0.1


def test_the_partner_of_one_of_two_images_is_the_other(backend):
    for transform in (CutMix(1.0), Mixup(1.0)):
        assert mixed(transform, backend, count=2)[2].tolist() == [1, 0]
