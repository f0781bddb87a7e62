"""Which module calls which: the dataflow inside every container of a model, by symbolic tracing.

A container's ``forward`` is traced with its submodules as leaves, once in training mode and once in eval mode. Nothing
of the model runs: tensors are stand-ins, and a ``forward`` that computes with tensors of its own, looks at values or
draws random numbers is given up.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.overrides import TorchFunctionMode

from . import modules

_TIMM_BATCH_NORM_ACT = "timm.layers.norm_act.BatchNormAct2d"
_HOLDERS = (nn.ModuleList, nn.ModuleDict)
_OURS = __package__.rpartition(".")[0] + "."
_SEQUENTIAL = "torch.nn.modules.container"


class _OwnTensors(TorchFunctionMode):
    """Raises where torch is called without a stand-in: a number drawn, a counter moved, a decision by value."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not any(issubclass(kind, fx.Proxy) for kind in types):
            raise RuntimeError(f"it computes with tensors of its own ({getattr(func, '__name__', func)})")
        return func(*args, **(kwargs or {}))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


@dataclass(frozen=True)
class Place:
    """Where a module is registered."""

    parent: nn.Module
    attribute: str


class ModuleGraph:
    """Names, places and calls of every module of a model.

    Args:
        model: the root.

    Attributes:
        names: every module's name, from the root, the first where it has several.
        places: where every module is registered; empty for the root.
        graphs: of every container that could be traced, in training mode and in eval mode.
        untraced: why the other containers could not be.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names: dict[nn.Module, str] = {}
        self.places: dict[nn.Module, list[Place]] = defaultdict(list)
        self.graphs: dict[nn.Module, tuple[fx.Graph, fx.Graph]] = {}
        self.untraced: dict[nn.Module, str] = {}
        self._enter(model, "")
        self._trace_all()
        self.calls = [self._count_calls(mode) for mode in (0, 1)]

    def _enter(self, module: nn.Module, name: str) -> None:
        if module in self.names:
            return
        self.names[module] = name
        if is_leaf(module):
            return
        for attribute, child in module.named_children():
            self._enter(child, f"{name}.{attribute}" if name else attribute)
        for attribute, entry in module._modules.items():  # named_children has a module once
            if entry is not None:
                self.places[entry].append(Place(module, attribute))

    def _trace_all(self) -> None:
        containers = [m for m in self.names if not is_leaf(m) and not isinstance(m, _HOLDERS) and any(m.children())]
        training = {module: module.training for module in self.names}
        graphs: dict[nn.Module, list[fx.Graph]] = defaultdict(list)
        try:
            for mode in (True, False):
                for module in self.names:
                    module.training = mode
                for container in containers:
                    try:
                        graphs[container].append(_trace(container))
                    # a stranger's forward with stand-ins for tensors may raise anything
                    except Exception as error:
                        text = str(error).strip() or type(error).__name__
                        self.untraced[container] = text.splitlines()[0]
        finally:
            for module, mode in training.items():
                module.training = mode
        self.graphs = {
            container: (pair[0], pair[1]) for container, pair in graphs.items() if container not in self.untraced
        }

    def _count_calls(self, mode: int) -> dict[nn.Module, int]:
        calls: dict[nn.Module, int] = defaultdict(int)
        for container, pair in self.graphs.items():
            for node in pair[mode].nodes:
                if node.op == "call_module":
                    calls[container.get_submodule(str(node.target))] += 1
        return calls

    def own_unsupported_reason(self, module: nn.Module) -> str | None:
        """Why a module must not be replaced, whatever it computes: someone changed how it is called."""
        if any(value for name, value in vars(module).items() if name.endswith("_hooks")):
            return "it has hooks"
        return "its forward was overridden" if "forward" in vars(module) else None

    def unsupported_reason(self, module: nn.Module) -> str | None:
        """``own_unsupported_reason`` of a module and those inside it, and whether unknown code calls it."""
        for part in module.modules():
            if reason := self.own_unsupported_reason(part):
                return reason
        for place in self.places[module]:
            if place.parent in self.untraced:
                name = self.names[place.parent] or "the model"
                return f"the forward of {name} cannot be followed: {self.untraced[place.parent]}"
        return None

    def single_use_unsupported_reason(self, module: nn.Module) -> str | None:
        """``unsupported_reason``, and why a module is not registered and called once."""
        if len(self.places[module]) > 1:
            return "it is registered under several names"
        if any(calls[module] > 1 for calls in self.calls):
            return "it is called in several places"
        return self.unsupported_reason(module)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one for this purpose: torch's own, timm's batch norm with activation, and ours."""
    where = type(module).__module__
    if is_timm_batch_norm_act(module) or where.startswith(_OURS):
        return not isinstance(module, modules.ResidualBlock)
    return where.startswith("torch.nn.") and where != _SEQUENTIAL


def is_timm_batch_norm_act(module: nn.Module) -> bool:
    """Whether a module is timm's batch norm with its activation inside, without importing timm."""
    return f"{type(module).__module__}.{type(module).__qualname__}" == _TIMM_BATCH_NORM_ACT


def _trace(container: nn.Module) -> fx.Graph:
    """The graph of a container's forward; the container is as before, whatever its forward assigns."""
    attributes = [(part, dict(vars(part))) for part in container.modules()]
    try:
        with _OwnTensors(), _without_random_numbers():
            return _Tracer().trace(container)
    finally:
        for part, before in attributes:
            vars(part).update(before)
            for name in vars(part).keys() - before.keys():
                del vars(part)[name]


@contextmanager
def _without_random_numbers() -> Iterator[None]:
    """Raise if numbers were drawn from Python's or numpy's generator, and put them back."""
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        yield
        drawn = random.getstate() != python_state
        if numpy and numpy_state is not None:
            _, keys, position, *_ = numpy.random.get_state()
            drawn |= position != numpy_state[2] or bool((keys != numpy_state[1]).any())
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
    if drawn:
        raise RuntimeError("it draws random numbers")
