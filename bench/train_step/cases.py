"""What is timed: which network, optimizer and batch."""

from dataclasses import dataclass
from typing import Any

import torch

from cifarfast.data import Splits, load_dataset
from cifarfast.recipes.recipe import Recipe

RHO = 2.0  # as recipes b24 to b31


@dataclass(frozen=True)
class Case:
    """A network, an optimizer and a batch.

    Args:
        arch: a model's name.
        optimizer: "sgd" (momentum .9, Nesterov, weight decay 5e-4) or "asam" (around the same, rho 2).
        batch: images a step.
        dropout: whether the architecture's dropout is on; the floors do not count it.
    """

    arch: str
    optimizer: str
    batch: int
    dropout: bool = False

    @property
    def name(self) -> str:
        """``wrn16_8 sgd 512``, with `` dropout`` where that is on."""
        return f"{self.arch} {self.optimizer} {self.batch}" + (" dropout" if self.dropout else "")

    @property
    def passes(self) -> int:
        """Forward and backward passes a step."""
        return 2 if self.optimizer == "asam" else 1

    @property
    def dropout_rate(self) -> float | None:
        """What ``create_model`` takes: 0, or None for the architecture's own rate."""
        return None if self.dropout or not self.arch.startswith("wrn") else 0.0

    def recipe(self, **settings: Any) -> Recipe:
        """The case as a recipe: crop, flip and a constant learning rate at which nothing diverges."""
        own: dict[str, Any] = {
            "arch": self.arch,
            "batch_size": self.batch,
            "dropout": self.dropout_rate,
            "lr": 0.02,
            "weight_decay": 5e-4,
            "schedule": "constant",
            "sam": "asam" if self.optimizer == "asam" else "none",
            "sam_rho": RHO,
        }
        return Recipe(**own | settings)


WRN, PYRAMID = "wrn16_8", "pyramidnet110_a150_shakedrop"
# those that targets are for come first
TARGETED = [Case(WRN, "sgd", 512), Case(WRN, "asam", 128), Case(PYRAMID, "asam", 128)]
OTHERS = [
    Case(WRN, "sgd", 512, dropout=True),
    Case(WRN, "asam", 128, dropout=True),
    Case(WRN, "sgd", 128),
    Case(WRN, "asam", 512),
    Case(PYRAMID, "sgd", 128),
    Case(PYRAMID, "sgd", 512),
    Case(PYRAMID, "asam", 512),
]
# where there is no GPU: the same code on networks that a CPU can run
TINY = [Case("wrn10_1", "sgd", 16), Case("pyramidnet8_a6_shakedrop", "asam", 16)]


def load_images(device: torch.device) -> Splits:
    """The images that all contenders read, on the device: made up, and few enough to be there in seconds."""
    train = 10_240 if device.type == "cuda" else 128
    return load_dataset(f"synthetic:train={train},test=500").to(device)
