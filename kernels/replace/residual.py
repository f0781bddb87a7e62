"""Finds the residual blocks that end with a batch norm, an addition and an activation."""

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from .fusion_patterns import Chain, ChainFinder
from .module_graph import ModuleGraph, is_timm_batch_norm_act
from .module_rules import (
    activation_of,
    batch_norm_unsupported_reason,
    function_activation,
    is_addition,
    is_batch_norm,
    is_identity,
    is_plain_call,
)


@dataclass(frozen=True)
class Residual:
    """A container whose forward is ``act(bn(main(x)) + shortcut(x))``.

    Args:
        container: the block.
        chains: the fused parts, the last of which is that of ``bn``.
        main, shortcut: names of the modules that are left to call, in order; main without ``last``.
        last: the name of ``bn``.
    """

    container: nn.Module
    chains: tuple[Chain, ...]
    main: tuple[str, ...]
    last: str
    shortcut: tuple[str, ...]


def match_residual(module_graph: ModuleGraph, container: nn.Module, reasons: dict[nn.Module, str]) -> Residual | None:
    """The container as a residual block, if that is all that its forward does, in training and in eval alike.

    Modules of the block that cannot be fused get their reason.
    """
    graph, in_eval = module_graph.graphs[container]
    if str(graph) != str(in_eval) or module_graph.own_unsupported_reason(container):
        return None
    nodes = list(graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    if len(inputs) != 1 or not isinstance(nodes[-1].args[0], fx.Node):
        return None
    finder = ChainFinder(module_graph, container, 0, functions=True)
    block = _Block(finder, inputs[0]).match(nodes[-1].args[0], len(nodes))
    if block:
        reasons.update(finder.reasons)
    return block


class _Block:
    """A container's graph, followed from its end back to its input x."""

    def __init__(self, finder: ChainFinder, x: fx.Node) -> None:
        self.finder, self.x = finder, x

    def match(self, end: fx.Node, n_nodes: int) -> Residual | None:
        """The residual block that ends with ``end``, if it has all nodes of the graph."""
        settings, addition = self._activation(end), end
        if settings and isinstance(end.args[0], fx.Node):
            addition = end.args[0]
        if not is_addition(addition) or len(addition.users) != 1:
            return None
        paths = [self._path(operand) for operand in addition.args]
        main, shortcut = paths if self._is_main(paths[0]) else paths[::-1]
        if main is None or shortcut is None or not self._is_main(main):
            return None
        if len({self.x, *main, *shortcut, addition, end}) + 1 != n_nodes:  # and the output
            return None
        *before, last = main
        chains = self._chains(before) + self._chains(shortcut)
        chains.append(self._last_chain(last, *(settings or ("identity", 0.01)), self.finder.module(end)))
        steps, detour = self._steps(before, chains), self._steps(shortcut, chains)
        if steps is None or detour is None:
            return None
        return Residual(self.finder.container, tuple(chains), steps, str(last.target), detour)

    def _activation(self, node: fx.Node) -> tuple[str, float] | None:
        """Name and slope of the activation that a node is."""
        name = function_activation(node)
        if name:
            return name, 0.01
        module = self.finder.module(node)
        settings = activation_of(module) if module is not None and is_plain_call(node) else ""
        hooked = module is not None and self.finder.module_graph.own_unsupported_reason(module)
        return None if hooked or isinstance(settings, str) else settings

    def _path(self, node: Any) -> list[fx.Node] | None:
        """The nodes from x, without x, to ``node``, each of which has one argument and one user."""
        path: list[fx.Node] = []
        while node is not self.x:
            if not isinstance(node, fx.Node) or len(node.users) != 1:
                return None
            if not is_plain_call(node) and not function_activation(node):
                return None
            path.append(node)
            node = node.args[0]
        return path[::-1]

    def _is_main(self, path: list[fx.Node] | None) -> bool:
        """Whether a path ends with a batch norm that can take the other one's result."""
        bn = self.finder.module(path[-1]) if path else None
        if bn is None or not is_batch_norm(bn) or is_timm_batch_norm_act(bn):
            return False
        return not batch_norm_unsupported_reason(bn) and not self.finder.module_graph.single_use_unsupported_reason(bn)

    def _chains(self, path: list[fx.Node]) -> list[Chain]:
        return [self.finder.chains[node] for node in path if node in self.finder.chains]

    def _last_chain(self, last: fx.Node, act: str, slope: float, act_module: nn.Module | None) -> Chain:
        """The chain of the last batch norm, whose activation comes after the addition."""
        bn, conv = self.finder.module(last), self.finder.convolution(last)
        assert isinstance(bn, nn.BatchNorm2d)
        nodes = (last,) if conv is None else (conv[0], last)
        return Chain(self.finder.container, conv and conv[1], bn, act_module, None, act, slope, nodes)

    def _steps(self, path: list[fx.Node], chains: list[Chain]) -> tuple[str, ...] | None:
        """Names of the modules that are left to call; None if a function is left."""
        fused = {node for chain in chains for node in chain.nodes if self.finder.module(node) is not chain.bn}
        left = [node for node in path if node not in fused and not is_identity(self.finder.module(node))]
        if any(node.op != "call_module" for node in left):
            return None
        return tuple(str(node.target) for node in left)
