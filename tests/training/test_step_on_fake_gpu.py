"""The step needs nothing of the host, so that a CUDA graph can hold it: found out without a GPU."""

import pytest
import torch
from fake_gpu import GPU, operations_of_a_step, pretended
from torch._subclasses.fake_tensor import DataDependentOutputException

from cifarfast.random import Purpose, draw_bits

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU tells the truth: test_step.py"),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
]


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_decay": 0.9, "clip_norm": 1.0, "lookahead_every": 3},
        {"arch": "pyramidnet8_a6_shakedrop", "sam": "asam", "on_nonfinite": "skip"},
        {"arch": "lenet", "precision": "fp32", "backend": "torch", "optimizer": "nadam"},
        {"sam": "sam", "precision": "fp16", "on_nonfinite": "rollback", "ema_decay": 0.9},
        {"optimizer": "muon", "cutmix_alpha": 1.0},
        {"compiled": False, "cutmix_alpha": 1.0, "mixup_alpha": 1.0, "crop_mode": "reflect", "cutout": 8},
        {"compiled": False, "auto_augment": "cifar10", "rotation": 10.0, "contrast": 0.2, "augmented_copy": True},
    ],
)
def test_a_step_takes_nothing_from_the_host(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    assert operations_of_a_step(monkeypatch, **settings) > 30


def test_the_bookkeeping_of_a_step_is_a_few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a launch. LeNet's forward has 12; the loss and the gradient's norm are one each, the update two."""
    assert operations_of_a_step(monkeypatch, arch="lenet", precision="fp32", dropout=None) <= 12 + 4 + 20


def test_what_takes_something_from_the_host_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended(monkeypatch, compiled=True) as (watch, _):
        index = torch.arange(4, device=GPU)
        with watch.watching():
            draw_bits(1, Purpose.AUGMENT, torch.zeros(1, dtype=torch.int64, device=GPU), index, 3)
            for number in (lambda: torch.tensor(1, device=GPU), lambda: torch.as_tensor(1, device=GPU)):
                with pytest.raises(AssertionError, match="host's memory"):
                    number()
            with pytest.raises(DataDependentOutputException):
                index.sum().item()
