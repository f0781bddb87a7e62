"""The least time a training step can take: what its convolutions and passes over memory need at the device's rates.

Three ways to run the same network, forward and backward, with activations in half precision:

* ``a``: every operation is a kernel of its own;
* ``b``: batch norm with its activation, and with what is added to it, is one pass forward for the statistics and one
  for the result, and one backward for the sums and one for the gradient;
* ``c``: convolutions return the statistics of their output and normalise their input as they read it.

A convolution takes the longer of its arithmetic and its traffic, each of forward, input gradient and weight gradient by
itself; everything else is traffic alone. Weights, loss and optimizer are left out: they do not grow with the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from bench.measure import Rates
from cifarfast.models import create_model
from cifarfast.models.pyramidnet import PyramidBlock
from cifarfast.models.wrn import WideBlock

NOMINAL_H200 = Rates(flops_per_second=790e12, bytes_per_second=4.3e12)
VARIANTS = ("a", "b", "c")
_HALF = 2  # bytes of an activation


@dataclass(frozen=True)
class Work:
    """FLOP and bytes of one kernel, for one image."""

    flops: int
    bytes: int

    def seconds(self, rates: Rates) -> float:
        """The longer of arithmetic and traffic."""
        return max(self.flops / rates.flops_per_second, self.bytes / rates.bytes_per_second)


@dataclass(frozen=True)
class Floor:
    """All work of forward and backward of one image."""

    work: tuple[Work, ...]

    @property
    def flops(self) -> int:
        """FLOP an image."""
        return sum(work.flops for work in self.work)

    @property
    def bytes(self) -> int:
        """Bytes an image."""
        return sum(work.bytes for work in self.work)

    def step_seconds(self, batch: int, rates: Rates, *, passes: int = 1) -> float:
        """Seconds of a step on ``batch`` images; ``passes`` is 2 with SAM or ASAM."""
        return passes * batch * sum(work.seconds(rates) for work in self.work)


@dataclass(frozen=True)
class _Convolution:
    """Sizes in elements for one image."""

    name: str
    inputs: int
    outputs: int
    flops: int


@dataclass(frozen=True)
class _Network:
    """What the floors are made of; sizes in elements for one image."""

    convolutions: tuple[_Convolution, ...]
    norms: int  # elements of all batch norms' inputs
    activated: int  # those of them that an activation follows
    block_inputs: int
    block_outputs: int
    pooled: int
    shakedrop: bool


@cache
def floors(arch: str) -> dict[str, Floor]:
    """The floors ``a``, ``b``, ``c`` of a wide ResNet or a PyramidNet of basic blocks on 32×32 images.

    Raises:
        ValueError: another architecture: the floor model knows these blocks only.
    """
    net = _trace(arch)
    return {"a": _separate(net), "b": _fused_norms(net), "c": _fused_convolutions(net)}


def _trace(arch: str) -> _Network:
    with torch.device("meta"):
        model = create_model(arch)
    blocks = [module for module in model.modules() if isinstance(module, WideBlock | PyramidBlock)]
    if not blocks or any(getattr(block, "expansion", 1) != 1 for block in blocks):
        raise ValueError(f"floors are known for wide ResNets and PyramidNets of basic blocks, not for {arch}")
    convolutions: list[_Convolution] = []
    sums = dict.fromkeys(("norms", "activated", "block_inputs", "block_outputs", "pooled"), 0)

    def follow(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            size = inputs[0].numel()
            if isinstance(module, nn.Conv2d):
                flops = 2 * output.numel() * module.weight[0].numel()
                convolutions.append(_Convolution(name, size, output.numel(), flops))
            elif isinstance(module, nn.BatchNorm2d):
                sums["norms"] += size
                # BatchNormReLU2d is the only other batch norm of these networks
                sums["activated"] += size * (type(module) is not nn.BatchNorm2d)
                sums["pooled"] = size  # the last one's output is what is pooled
            elif isinstance(module, WideBlock | PyramidBlock):
                sums["block_inputs"] += size
                sums["block_outputs"] += output.numel()

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(follow(name))
    model(torch.empty(1, 3, 32, 32, device="meta"))
    pyramid = isinstance(blocks[0], PyramidBlock)
    return _Network(tuple(convolutions), **sums, shakedrop=pyramid)


def _passes(*elements: int) -> Work:
    """Traffic of that many elements in all."""
    return Work(0, _HALF * sum(elements))


def _plain_convolutions(net: _Network) -> list[Work]:
    return [Work(c.flops, _HALF * (c.inputs + c.outputs)) for c in net.convolutions for _ in range(3)]


def _separate(net: _Network) -> Floor:
    """Batch norm 3 passes forward and 5 backward, its ReLU 2 and 3; additions 3 forward, 3 where gradients meet.

    A PyramidNet's block also scales its branch (2 and 2) and pads its shortcut (2 and 2).
    """
    elementwise = [
        _passes(8 * net.norms, 5 * net.activated),
        _passes(3 * net.block_outputs, 3 * net.block_inputs),
        _passes(2 * net.pooled),
    ]
    if net.shakedrop:
        elementwise.append(_passes(4 * net.block_outputs, 4 * net.block_inputs))
    return Floor((*_plain_convolutions(net), *elementwise))


def _fused_norms(net: _Network) -> Floor:
    """Batch norm with its activation 3 passes forward and 5 backward, where gradients meet included.

    The addition takes 3 passes, or 1 more where it is in the batch norm before it (PyramidNet).
    """
    addition = (1 if net.shakedrop else 3) * net.block_outputs
    return Floor((*_plain_convolutions(net), _passes(8 * net.norms), _passes(addition), _passes(2 * net.pooled)))


def _fused_convolutions(net: _Network) -> Floor:
    """Gradients read the batch norms' inputs again: 1 for each convolution's input, 2 for each output.

    A wide ResNet adds its shortcut as the second convolution writes, and takes 2 passes over a block's input where the
    gradients meet; a PyramidNet's tail takes 3 passes forward and 2 backward for its sums.
    """
    work = []
    for c in net.convolutions:
        first, plain = c.name == "conv1", c.inputs + c.outputs
        projection = c.name.endswith("shortcut")
        residual = c.outputs if not net.shakedrop and c.name.endswith("conv2") else 0
        again = 0 if projection else c.outputs
        work.append(Work(c.flops, _HALF * (plain + residual)))
        work.append(Work(c.flops, _HALF * (plain + (0 if first else c.inputs) + again)))
        work.append(Work(c.flops, _HALF * (plain + again)))
    blocks = 5 * net.block_outputs if net.shakedrop else 2 * net.block_inputs
    return Floor((*work, _passes(blocks), _passes(2 * net.pooled)))
