"""Decides what to replace in a model, and gives a reason for all that is left."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from .fusion_patterns import Chain, ChainFinder
from .module_graph import ModuleGraph
from .module_rules import (
    activation_of,
    is_activation,
    is_batch_norm,
    is_candidate,
    is_cross_entropy,
    is_fused,
    loss_unsupported_reason,
)
from .residual import Residual, match_residual


@dataclass(frozen=True)
class Plan:
    """What to replace.

    Args:
        chains: all of them, those of residual blocks included.
        blocks: the residual blocks.
        activations: modules that nothing calls any more.
        losses: cross entropies.
        left: every other candidate and why it is left, in the model's order.
    """

    chains: tuple[Chain, ...]
    blocks: tuple[Residual, ...]
    activations: tuple[nn.Module, ...]
    losses: tuple[nn.Module, ...]
    left: dict[nn.Module, str]


def make_plan(module_graph: ModuleGraph) -> Plan:
    """Decide what to replace."""
    reasons: dict[nn.Module, str] = {}
    blocks = {
        container: block
        for container in module_graph.graphs
        if (block := match_residual(module_graph, container, reasons))
    }
    in_blocks = [chain for block in blocks.values() for chain in block.chains]
    chains = _in_both_modes(module_graph, blocks, reasons)
    fused = Counter(chain.act_module for chain in (*in_blocks, *chains))
    freed = {
        act for act, n in fused.items() if act is not None and all(calls[act] == n for calls in module_graph.calls)
    }
    for chain in chains:
        if chain.act_module and chain.act_module not in freed:
            name = module_graph.names[chain.act_module]
            reasons[chain.bn] = f"the activation after it, {name}, is used where there is no batch norm too"
            reasons[chain.act_module] = "it is used where there is no batch norm too"
    chains = [*in_blocks, *(chain for chain in chains if chain.act_module is None or chain.act_module in freed)]
    losses = tuple(
        m for m in module_graph.names if is_cross_entropy(m) and not is_fused(m) and not _loss_reason(module_graph, m)
    )
    replaced = {*losses, *(module for chain in chains for module in chain.modules)}
    left = {m: _reason(module_graph, m, reasons) for m in module_graph.names if is_candidate(m) and m not in replaced}
    return Plan(tuple(chains), tuple(blocks.values()), tuple(freed), losses, left)


def _in_both_modes(
    module_graph: ModuleGraph, blocks: Collection[nn.Module], reasons: dict[nn.Module, str]
) -> list[Chain]:
    """The chains of the containers that are no residual blocks; what is in none may get a reason."""
    chains: list[Chain] = []
    for container in module_graph.graphs:
        if container in blocks:
            continue
        in_training, in_eval = (ChainFinder(module_graph, container, mode) for mode in (0, 1))
        reasons.update({**in_eval.reasons, **in_training.reasons})
        found = dict.fromkeys((*in_training.chains.values(), *in_eval.chains.values()))
        for chain in found:
            if chain in in_training.chains.values() and chain in in_eval.chains.values():
                chains.append(chain)
            else:
                reasons[chain.bn] = "what it is used for differs between training and eval"
    return chains


def _loss_reason(module_graph: ModuleGraph, loss: nn.Module) -> str | None:
    return loss_unsupported_reason(loss) or module_graph.own_unsupported_reason(loss)


def _reason(module_graph: ModuleGraph, module: nn.Module, reasons: dict[nn.Module, str]) -> str:
    """Why a candidate is left."""
    if is_fused(module):
        return "it is fused already"
    if is_cross_entropy(module):
        return _loss_reason(module_graph, module) or ""
    if is_activation(module) and isinstance(settings := activation_of(module), str):
        return settings
    found = reasons.get(module) or module_graph.unsupported_reason(module)
    if found:
        return found
    if not any(calls[module] for calls in module_graph.calls):
        return "nothing is known to call it"
    if is_batch_norm(module):
        return "neither a convolution before it nor an activation after it can be fused"
    if isinstance(module, nn.Conv2d):
        return "no batch norm that can be fused comes after it"
    return "no batch norm that can be fused comes before it"
