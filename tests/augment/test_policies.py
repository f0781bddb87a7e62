"""AutoAugment's table is the published one, and every policy draws uniformly."""

import torch
from scipy.stats import chisquare
from torchvision.transforms import autoaugment

from cifarfast.augment import AutoAugment, RandAugment, TrivialAugment
from cifarfast.augment.compiled import compile_program
from cifarfast.augment.policies import WIDE_SPACE, cifar10_policy, relative_space
from cifarfast.augment.program import Kind, Size
from cifarfast.augment.reference import Draws, randint
from cifarfast.kernels.philox import uniform

SIZE = Size(32, 32, 3)
DRAWS = 100_000


def words(block: int) -> tuple[torch.Tensor, ...]:
    return Draws(5, 2, torch.arange(DRAWS)).words(block)


def test_autoaugment_table_is_torchvisions():
    theirs = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.CIFAR10).policies
    ours = cifar10_policy()
    assert len(ours) == 25
    for mine, their in zip(ours, theirs, strict=True):
        for (kind, p, level), (name, their_p, their_level) in zip(mine, their, strict=True):
            assert kind.name.replace("_", "") == name.upper()
            assert (p, level) == (their_p, their_level)


def test_magnitudes_are_torchvisions():
    spaces = [
        (AutoAugment(), autoaugment.AutoAugment()._augmentation_space(10, (32, 32))),
        (RandAugment(1, 9), autoaugment.RandAugment()._augmentation_space(31, (32, 32))),
        (TrivialAugment(), autoaugment.TrivialAugmentWide()._augmentation_space(31)),
    ]
    for transform, space in spaces:
        by_name = {name.upper(): value for name, value in space.items()}
        for kind, _, magnitude, sign in compile_program([transform], SIZE).policy:
            magnitudes, signed = by_name[Kind(int(kind)).name.replace("_", "")]
            assert bool(sign) == signed
            allowed = magnitudes.trunc() if "TRANSLATE" in Kind(int(kind)).name else magnitudes
            assert magnitude in allowed.reshape(-1).tolist()


def test_magnitudes_of_posterize_are_rounded_to_whole_bits():
    """8 − i·4/9 for bin i of 10, and 8 − i/5 for bin i of 31."""
    for space, kept in (
        (relative_space(SIZE), [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]),
        (WIDE_SPACE, [8] * 3 + [7] * 5 + [6] * 5 + [5] * 5 + [4] * 5 + [3] * 5 + [2] * 3),
    ):
        assert [space.magnitude(Kind.POSTERIZE, i, len(kept))[0] for i in range(len(kept))] == kept


def test_autoaugment_draws_each_pair_and_operation_with_its_frequency():
    first = words(0)
    chosen = randint(first[0], 25)
    counts = torch.bincount(chosen, minlength=25)
    assert chisquare(counts.numpy()).pvalue > 1e-3
    policy = torch.tensor(compile_program([AutoAugment()], SIZE).policy).reshape(25, 2, 4)
    for k in (0, 1):
        applied = uniform(first[1 + k]) < policy[chosen, k, 1]
        for pair in range(25):
            share, chance = applied[chosen == pair].float().mean().item(), policy[pair, k, 1].item()
            assert abs(share - chance) < 4 * (max(chance * (1 - chance), 1e-9) / 4000) ** 0.5 + 1e-9
        negative = (first[3] >> (31 - k) & 1).float().mean().item()
        assert abs(negative - 0.5) < 0.007


def test_randaugment_and_trivialaugment_draw_uniformly_and_independently():
    first, second = (randint(words(block)[0], 14) for block in (0, 1))
    for drawn in (first, second):
        assert chisquare(torch.bincount(drawn, minlength=14).numpy()).pvalue > 1e-3
    assert chisquare(torch.bincount(first * 14 + second, minlength=196).numpy()).pvalue > 1e-3
    assert chisquare(torch.bincount(randint(words(0)[0], 14 * 31), minlength=14 * 31).numpy()).pvalue > 1e-3
