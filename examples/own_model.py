"""Your own ``nn.Module`` in the trainer: register a function that builds it, and name it as ``arch``.

    python examples/own_model.py --epochs 3

Everything of the trainer works with it: recipes' settings as flags, run folder, resume, report, export.
"""

import argparse

from torch import Tensor, nn

import cifarfast
from cifarfast.models import register


class TwoBranches(nn.Module):
    """A 3×3 and a 5×5 convolution side by side, then a linear layer."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 16) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(in_channels, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Linear(width * 16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.narrow(x) + self.wide(x)).flatten(1))


@register("two_branches", "a 3×3 and a 5×5 convolution side by side")
def two_branches(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The model by its registered name; ``image_size`` is the images' side in pixels."""
    return TwoBranches(num_classes, in_channels)


def main(arguments: list[str] | None = None) -> cifarfast.Run:
    """Train and return the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", help="run folder; default: a new one under runs/")
    options = parser.parse_args(arguments)
    run = cifarfast.train(
        arch="two_branches", dataset="digits", epochs=options.epochs, optimizer="adam", lr=3e-3, out=options.out
    )
    print(f"{run.result['parameters']:,} parameters, test accuracy {run.result['test_accuracy_percent']:.2f} %")
    return run


if __name__ == "__main__":
    main()
