"""Finds the chains of modules around a batch norm that one fused op can do the work of."""

from dataclasses import dataclass, field

from torch import fx, nn

from .module_graph import ModuleGraph, is_timm_batch_norm_act
from .module_rules import (
    activation_of,
    batch_norm_unsupported_reason,
    convolution_unsupported_reason,
    function_activation,
    is_activation,
    is_batch_norm,
    is_identity,
    is_plain_call,
    name_of,
    pool_unsupported_reason,
)

_NO_ACTIVATION = "no activation comes after it"


@dataclass(frozen=True)
class Chain:
    """[conv →] bn [→ act [→ pool]] in the dataflow of a container, with conv or act.

    Args:
        container: whose forward calls them.
        conv, pool: None where there is none, or none that can be part of it.
        bn: the batch norm.
        act_module: None where the activation is inside bn, a function, or none.
        act, negative_slope: the activation; ``identity`` where none can be fused.
        nodes: that the chain does the work of.
    """

    container: nn.Module
    conv: nn.Conv2d | None
    bn: nn.BatchNorm2d
    act_module: nn.Module | None
    pool: nn.MaxPool2d | None
    act: str
    negative_slope: float
    nodes: tuple[fx.Node, ...] = field(compare=False)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules of the chain, in order."""
        parts = (self.conv, self.bn, self.act_module, self.pool)
        return tuple(part for part in parts if part is not None)


class ChainFinder:
    """The chains of one container, and why other modules are in none.

    Args:
        module_graph: that of the model.
        container: that was traced.
        mode: 0 for its graph in training, 1 for that in eval.
        functions: whether activations may be functions.

    Attributes:
        chains: by the node of their batch norm.
        reasons: of the batch norms, convolutions and poolings that a chain could have had.
    """

    def __init__(self, module_graph: ModuleGraph, container: nn.Module, mode: int, *, functions: bool = False) -> None:
        self.module_graph, self.container, self.functions = module_graph, container, functions
        self.chains: dict[fx.Node, Chain] = {}
        self.reasons: dict[nn.Module, str] = {}
        for node in module_graph.graphs[container][mode].nodes:
            bn = self.module(node)
            if bn is None or not is_batch_norm(bn):
                continue
            found = batch_norm_unsupported_reason(bn) or self._use_unsupported_reason(bn, node) or self._chain(node)
            if isinstance(found, str):
                self.reasons[bn] = found
            else:
                self.chains[node] = found

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.container.get_submodule(str(node.target)) if node.op == "call_module" else None

    def only_user(self, node: fx.Node) -> fx.Node | None:
        """The one node that uses a result, behind modules that do nothing; None if there are several or none."""
        while len(node.users) == 1:
            node = next(iter(node.users))
            if not is_identity(self.module(node)):
                return node
        return None

    def convolution(self, node: fx.Node) -> tuple[fx.Node, nn.Conv2d] | None:
        """The convolution whose result a batch norm's node takes, if it can be fused with that."""
        source, uses = node, 1
        while is_plain_call(source) and isinstance(source.args[0], fx.Node):
            source = source.args[0]
            uses = max(uses, len(source.users))
            if not is_identity(self.module(source)):
                break
        conv = self.module(source)
        if not isinstance(conv, nn.Conv2d):
            return None
        reason = "its output is used in more than one place" if uses > 1 else convolution_unsupported_reason(conv)
        if reason := reason or self._use_unsupported_reason(conv, source):
            self.reasons[conv] = reason
            return None
        return source, conv

    def _chain(self, node: fx.Node) -> Chain | str:
        """The chain around a batch norm's node, or why there is none."""
        bn = self.module(node)
        assert isinstance(bn, nn.BatchNorm2d)
        end, act_module = node, None
        settings: tuple[str, float] | str
        if is_timm_batch_norm_act(bn):
            settings = self._settings_inside(bn)
        elif follower := self.only_user(node):
            end, act_module = follower, self.module(follower)
            settings = self._settings(end)
        else:
            settings = f"its output is used in {len(node.users) or 'no'} places"
        conv = self.convolution(node)
        if isinstance(settings, str):
            if conv is None or (is_timm_batch_norm_act(bn) and not is_identity(bn.get_submodule("act"))):
                return settings
            return Chain(self.container, conv[1], bn, None, None, "identity", 0.01, (conv[0], node))
        nodes = [node, end]
        pool = self._pool(end)
        if conv and pool:
            self.reasons[conv[1]] = "its batch norm is fused with the pooling after it"
            conv = None
        nodes += [] if conv is None else [conv[0]]
        nodes += [] if pool is None else [pool[0]]
        parts = (conv and conv[1], bn, act_module, pool and pool[1])
        return Chain(self.container, *parts, *settings, tuple(nodes))

    def _settings_inside(self, bn: nn.Module) -> tuple[str, float] | str:
        """Name and slope of the activation inside timm's batch norm, or why there is none."""
        act = bn.get_submodule("act")
        if is_identity(act):
            return _NO_ACTIVATION
        settings = activation_of(act)
        return f"its activation cannot be replaced: {settings}" if isinstance(settings, str) else settings

    def _settings(self, node: fx.Node) -> tuple[str, float] | str:
        """Name and slope of the activation that a node is, or why it is none."""
        name = function_activation(node)
        if name and self.functions:
            return name, 0.01
        act = self.module(node)
        if act is None:
            if node.op == "output":
                return _NO_ACTIVATION
            return f"after it comes the function {name_of(node)}, not an activation module"
        settings = activation_of(act)
        if isinstance(settings, str):
            return f"the activation after it cannot be replaced: {settings}" if is_activation(act) else _NO_ACTIVATION
        reason = self.module_graph.unsupported_reason(act) or _call_unsupported_reason(node)
        return f"the activation after it cannot be replaced: {reason}" if reason else settings

    def _pool(self, end: fx.Node) -> tuple[fx.Node, nn.MaxPool2d] | None:
        """The pooling after an activation's node, if it can be fused with the batch norm."""
        node = self.only_user(end)
        pool = None if node is None else self.module(node)
        if node is None or not isinstance(pool, nn.MaxPool2d):
            return None
        if reason := pool_unsupported_reason(pool) or self._use_unsupported_reason(pool, node):
            self.reasons[pool] = reason
            return None
        return node, pool

    def _use_unsupported_reason(self, module: nn.Module, node: fx.Node) -> str | None:
        """Why a module that a node calls cannot be part of a chain, whatever it does."""
        return self.module_graph.single_use_unsupported_reason(module) or _call_unsupported_reason(node)


def _call_unsupported_reason(node: fx.Node) -> str | None:
    return None if is_plain_call(node) else "it is not called with one positional argument"
