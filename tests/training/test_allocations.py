"""What a step allocates: nothing that stays; the kernels over flat buffers and the augmentation only their results.

Counted by torch's allocator on the CPU. The Triton kernels' own host code is run while launches are recorded: what it
allocates on a CPU it would on a GPU. There, test_step.py counts whole captured steps.
"""

from collections.abc import Iterator

import pytest
import torch
from memory_log import allocations
from small_steps import BATCH, make_step
from torch import Tensor

from cifarfast.augment import Augment, CutMix
from cifarfast.kernels import FLAT_BLOCK, flat_scalars, flat_table
from cifarfast.kernels.flat.flat_optimizer.rule import RULES, Buffers, Rule
from cifarfast.kernels.testing.recorder import Launch, record

pytest.importorskip("triton")

ELEMENTS = 300 * FLAT_BLOCK


@pytest.fixture
def launches() -> Iterator[list[Launch]]:
    with record() as launches:
        yield launches


def buffers(count: int) -> list[Tensor]:
    return [torch.zeros(ELEMENTS) for _ in range(count)]


@pytest.mark.parametrize("rule", RULES)
def test_optimizer_kernels_allocate_nothing(rule: str, launches: list[Launch]) -> None:
    from cifarfast.kernels.flat.flat_optimizer import triton_impl

    settings, scalars = flat_table([ELEMENTS]).settings, flat_scalars(lr=0.1)
    arguments = (Buffers(*buffers(6)), settings, scalars, Rule(rule, 0.9, 0.99))
    assert allocations(lambda: triton_impl.flat_optimizer(*arguments)) == []
    assert len(launches) == 2


def test_other_flat_kernels_allocate_their_results(launches: list[Launch]) -> None:
    from cifarfast.kernels.flat import triton_impl
    from cifarfast.kernels.last_block import take_counters

    master, grad, other, copy = buffers(4)
    settings, scalars, length = flat_table([ELEMENTS]).settings, flat_scalars(lr=0.1), torch.ones(())
    assert allocations(lambda: triton_impl.flat_ema(other, master, scalars)) == []
    assert allocations(lambda: triton_impl.flat_lookahead(master, other, scalars, copy, 0.5, 5)) == []
    assert allocations(lambda: triton_impl.flat_perturb(copy, master, grad, length, settings, 2.0, True, 0.0)) == []
    take_counters(1, grad.device)  # a device's are made once
    partial_sums, result = (n for n in allocations(lambda: triton_impl.flat_norm(grad, master, settings, 0.0)) if n > 0)
    assert partial_sums < master.nbytes / 100
    assert result == 4
    assert len(launches) == 4


def test_augmentation_allocates_its_results() -> None:
    images = torch.randint(256, (40, 32, 32, 3), dtype=torch.uint8)
    labels, indices, epoch = torch.arange(40) % 10, torch.arange(8), torch.zeros(1, dtype=torch.int64)
    augment = Augment([CutMix(alpha=1.0)], (0.5,) * 3, (0.25,) * 3, backend="native")
    augment(images, labels, indices, epoch)
    sizes = sorted(n for n in allocations(lambda: augment(images, labels, indices, epoch)) if n > 0)
    assert sizes == [8 * 4, 8 * 8, 8 * 8, 8 * 3 * 32 * 32 * 4]  # lam, two labels, images


@pytest.mark.parametrize(
    "settings",
    [
        {"sam": "asam", "ema_decay": 0.9, "clip_norm": 1.0, "lookahead_every": 2, "cutmix_alpha": 1.0},
        {"optimizer": "muon", "on_nonfinite": "skip", "precision": "fp16"},
        {"backend": "fused", "optimizer": "adam", "arch": "pyramidnet8_a6_shakedrop", "dropout": None},
    ],
)
def test_a_step_gives_back_all_it_takes(settings: dict[str, object]) -> None:
    step = make_step(**settings)
    step.model.train()
    step.begin(0, 0, [0.1] * 5, set())

    def run(steps: int) -> None:
        for _ in range(steps):
            step.run(BATCH, step.sharpness is not None)

    run(1)
    one, three = allocations(lambda: run(1)), allocations(lambda: run(3))
    assert len(three) > len(one) > 10
    # ShakeDrop keeps the newest indices; the log does not know whether those it gives back are from before
    assert max(sum(one), sum(three)) <= 8 * BATCH


def test_an_optimizer_step_on_the_cpu_allocates_pieces_that_fit_the_cache() -> None:
    """Not buffers of all parameters' length."""
    step = make_step(arch="wrn10_4", optimizer="adam", ema_decay=0.9, sam="asam")
    step.flat.grad.normal_()
    assert step.flat.master.nbytes > 4 * 2**20
    for function in (step.optimizer.step, step.optimizer.clip, lambda: step.sharpness.perturb(step.flat)):  # type: ignore[union-attr]
        assert max(allocations(function)) <= 128 * FLAT_BLOCK * 4
