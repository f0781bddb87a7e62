"""A training loop of your own on the fused ops: device augmentation, fused loss, one flat buffer for all parameters.

    python examples/own_loop.py --epochs 5

It trains a small network of torch's modules on handwritten digits; fused ops replace its batch norms. The optimizer's
step updates the weights and their average in one pass over one buffer.
"""

import argparse
import copy

import torch
from torch import nn

from cifarfast.augment import Augment, RandomCrop
from cifarfast.data import load_dataset
from cifarfast.kernels import CrossEntropyLoss, flat_scalars, flat_sgd_step, flat_table, replace_modules


def make_network(channels: int, classes: int) -> nn.Module:
    """Three convolutions, each with a batch norm and a ReLU."""

    def block(c_in: int, c_out: int) -> list[nn.Module]:
        return [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]

    layers = [*block(channels, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def into_one_buffer(network: nn.Module) -> tuple[torch.Tensor, torch.Tensor, object]:
    """Make every parameter and gradient a view into one buffer each; return both buffers and the segment table."""
    parameters = list(network.parameters())
    decay = [5e-4 if parameter.dim() > 1 else 0.0 for parameter in parameters]  # none on biases and batch norms
    table = flat_table([parameter.numel() for parameter in parameters], weight_decay=decay)
    weights, gradients = torch.zeros(table.length), torch.zeros(table.length)
    for parameter, offset in zip(parameters, table.offsets, strict=True):
        place = slice(offset, offset + parameter.numel())
        weights[place] = parameter.detach().flatten()
        parameter.data = weights[place].view_as(parameter)
        parameter.grad = gradients[place].view_as(parameter)
    return weights, gradients, table


def main(arguments: list[str] | None = None) -> float:
    """Train; return the test accuracy of the averaged weights in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args(arguments).epochs

    torch.manual_seed(0)
    splits = load_dataset("digits")
    images, labels = splits.train.images, splits.train.labels
    mean, std = (0.3,), (0.4,)
    augment = Augment([RandomCrop(2)], mean=mean, std=std)
    prepare = Augment([], mean=mean, std=std)

    network = make_network(images.shape[-1], len(splits.train.classes))
    print(replace_modules(network))
    weights, gradients, table = into_one_buffer(network)
    momentum, average = torch.zeros_like(weights), weights.clone()
    criterion = CrossEntropyLoss(label_smoothing=0.1)
    batch_size = 64
    steps = len(images) // batch_size
    scalars = flat_scalars(lr=0.1, ema_decay=0.9, device=weights.device)

    for epoch in range(epochs):
        order = torch.randperm(len(images))
        for step in range(steps):
            batch = augment(images, labels, order[step * batch_size :][:batch_size], epoch)
            gradients.zero_()
            loss = criterion(network(batch.images), batch.labels)
            loss.backward()
            flat_sgd_step(weights, gradients, momentum, table, scalars, average, momentum=0.9, nesterov=True)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    averaged = copy.deepcopy(network).eval()
    for parameter, offset in zip(averaged.parameters(), table.offsets, strict=True):
        parameter.data = average[offset : offset + parameter.numel()].view_as(parameter)
    test = splits.test
    with torch.no_grad():
        batch = prepare(test.images, test.labels, torch.arange(len(test.images)), 0)
        accuracy = 100 * (averaged(batch.images).argmax(dim=1) == test.labels).float().mean().item()
    print(f"test accuracy {accuracy:.2f} %")
    return accuracy


if __name__ == "__main__":
    main()
