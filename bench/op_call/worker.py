"""Times calls of ops when it is asked, in a process of one side; nothing of ``bench`` is imported.

First it prints a line of JSON that lists the calls. Then stdin has the name of a call a line, and stdout the processor
seconds that one took.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

PATHS = ("default", "op")
SHAPE = (2, 8, 4, 4)
SLICE_SECONDS = 0.02
Call = Callable[[], object]


def calls(path: str) -> dict[str, Call]:
    """Every timed call by ``op | mode | path``."""
    import torch
    from torch import Tensor

    from cifarfast import kernels

    class Small(Tensor):
        """A tensor like any other, which is not of torch's own class."""

        __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    draws = torch.Generator().manual_seed(0)
    channels = SHAPE[1]

    def tensor(*shape: int, grad: bool = False, values: Tensor | None = None) -> Tensor:
        values = torch.randn(shape, generator=draws) if values is None else values
        if values.dim() == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        return values.as_subclass(Small).requires_grad_(grad) if path == "op" else values.requires_grad_(grad)

    def norm() -> dict[str, Any]:
        return {
            "running_mean": torch.zeros(channels),
            "running_var": torch.ones(channels),
            "weight": tensor(channels, grad=True),
            "bias": tensor(channels, grad=True),
            "training": True,
        }

    x, h = tensor(*SHAPE, grad=True), tensor(*SHAPE, grad=True)
    filters = tensor(channels, channels, 3, 3, grad=True)
    logits, labels = tensor(2, channels, grad=True), torch.tensor([1, 5])
    numbers = {"seed": torch.tensor(1), "step": torch.tensor(2), "indices": torch.arange(SHAPE[0])}
    norms = [norm() for _ in range(5)]
    functions: dict[str, Call] = {
        "batch_norm_act": lambda: kernels.batch_norm_act(x, **norms[0]),
        "bn_act_conv2d": lambda: kernels.bn_act_conv2d(x, filters, padding=1, **norms[1]),
        "conv2d_bn_act": lambda: kernels.conv2d_bn_act(x, filters, padding=1, **norms[2]),
        "shakedrop_bn_shortcut": lambda: kernels.shakedrop_bn_shortcut(
            h, x, keep_probability=0.5, layer=1, **numbers, **norms[3]
        ),
        "cross_entropy": lambda: kernels.cross_entropy(logits, labels, label_smoothing=0.1),
        "global_avg_pool_act": lambda: kernels.global_avg_pool_act(x, **norms[4]),
    }
    leaves = [x, h, filters, logits, *(each[name] for each in norms for name in ("weight", "bias"))]

    def with_backward(function: Call) -> Call:
        y = function()
        assert isinstance(y, Tensor)
        gradient = torch.ones_like(y.detach())

        def step() -> None:
            function().backward(gradient)  # type: ignore[attr-defined]
            for leaf in leaves:
                leaf.grad = None

        return step

    def without_gradients(function: Call) -> Call:
        def step() -> None:
            with torch.no_grad():
                function()

        return step

    found: dict[str, Call] = {}
    for name, function in functions.items():
        found[f"{name} | forward | {path}"] = without_gradients(function)
        found[f"{name} | forward+backward | {path}"] = with_backward(function)
    table = kernels.flat_table([100, 200])
    master, grad, first, second = (tensor(table.length, values=torch.zeros(table.length)) for _ in range(4))
    scalars = kernels.flat_scalars(lr=0.1)
    step_names = {
        "flat_sgd_step": lambda: kernels.flat_sgd_step(master, grad, first, table, scalars, momentum=0.9),
        "flat_adamw_step": lambda: kernels.flat_adamw_step(master, grad, first, second, table, scalars),
    }
    return found | {f"{name} | forward | {path}": function for name, function in step_names.items()}


def dispatched(call: Call) -> list[str]:
    """The ops of this library that a call dispatches."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names = set[str]()

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.namespace == "cifarfast":
                names.add(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Noting():
        call()
    return sorted(names)


def answer() -> None:
    """List the calls and the ops that each dispatches, then time what stdin asks for."""
    import cifarfast

    known: dict[str, Call] = {}
    ops: dict[str, list[str]] = {}
    for path in PATHS:
        for name, call in calls(path).items():
            _force(name)
            known[name], ops[name] = call, dispatched(call)
            if path == "op" and not ops[name]:
                raise SystemExit(f"{name}: no op of this library was dispatched")
            for _ in range(20):
                call()
    print(json.dumps({"package": cifarfast.__file__, "ops": ops}), flush=True)
    for line in sys.stdin:
        name = line.rstrip("\n")
        _force(name)
        call, count, started = known[name], 0, time.process_time()
        while (passed := time.process_time() - started) < SLICE_SECONDS:
            for _ in range(5):
                call()
            count += 5
        print(passed / count, flush=True)


def _force(name: str) -> None:
    """Set the backend of a call's path."""
    if name.endswith("| op"):
        os.environ["CIFARFAST_BACKEND"] = "torch"
    else:
        os.environ.pop("CIFARFAST_BACKEND", None)


if __name__ == "__main__":
    answer()
