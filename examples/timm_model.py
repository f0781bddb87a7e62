"""``replace_modules`` on a timm model: the same weights and outputs, with fused ops where they fit.

    python examples/timm_model.py --model resnet10t

Needs timm (``pip install cifarfast[timm]``). Nothing is downloaded: the weights are random.
"""

import argparse
import copy

import timm
import torch

from cifarfast.kernels import replace_modules


def main(arguments: list[str] | None = None) -> float:
    """Replace the modules; return the largest difference of the two models' outputs, relative to their size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet10t")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    plain = timm.create_model(options.model, num_classes=10)
    fused = copy.deepcopy(plain)
    report = replace_modules(fused)
    print(report)
    assert fused.state_dict().keys() == plain.state_dict().keys()

    x = torch.randn(8, 3, 64, 64)
    expected, found = plain(x), fused(x)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"largest difference of the outputs in training: {difference:.1e}")

    optimizer = torch.optim.SGD(fused.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(found, torch.arange(8)).backward()
    optimizer.step()
    return difference


if __name__ == "__main__":
    main()
