"""Batch norms of a traced model folded into the convolutions and linear layers before them."""

import operator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten
_BEFORE = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv2d.padding, _ATEN.linear.default)


@dataclass(frozen=True)
class Folded:
    """How many batch norms were folded, and how many stay because something else stands before them."""

    folded: int
    kept: int


def fold_batch_norms(module: GraphModule) -> Folded:
    """Fold batch norms in place, in the graph of a model in eval mode that ``torch.export`` traced.

    ``γ · (W x + b − μ) / √(σ² + ε) + β`` is ``W' x + b'`` with s = γ / √(σ² + ε), W' = s · W row by row and
    b' = s · (b − μ) + β, computed in float64. A batch norm is folded where its input is the output of a convolution or
    linear layer that nothing else reads. One that follows an addition, or stands before the convolution, stays:
    at a padded border a shift before the convolution is none after it.
    """
    folded = kept = 0
    for node in list(module.graph.nodes):
        if node.target is not _ATEN.batch_norm.default or node.args[5]:
            continue
        before = node.args[0]
        if before.op == "call_function" and before.target in _BEFORE and len(before.users) == 1:
            _fold(module, before, node, folded)
            folded += 1
        else:
            kept += 1
    module.graph.eliminate_dead_code()
    _drop_unused(module)
    module.recompile()
    return Folded(folded, kept)


def _fold(module: GraphModule, layer: Node, norm: Node, number: int) -> None:
    gamma, beta, mean, variance = (_tensor(module, value) for value in norm.args[1:5])
    weight = _tensor(module, layer.args[1])
    given = layer.args[2] if len(layer.args) > 2 else layer.kwargs.get("bias")
    bias = _tensor(module, given)
    assert weight is not None
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + float(norm.args[7])).rsqrt()  # type: ignore[arg-type]
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * scale if beta is None else shift * scale + beta.double()
    new_weight = (weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)
    with module.graph.inserting_before(layer):
        inputs = [_constant(module, f"folded_weight_{number}", new_weight)]
        inputs.append(_constant(module, f"folded_bias_{number}", shift.to(weight.dtype)))
    layer.args = (layer.args[0], *inputs, *layer.args[3:])
    layer.kwargs = {key: value for key, value in layer.kwargs.items() if key != "bias"}
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)


def _tensor(module: GraphModule, node: Any) -> Tensor | None:
    """The parameter or buffer that a node of the graph stands for."""
    if node is None:
        return None
    assert node.op == "get_attr"
    value: Any = reduce(getattr, str(node.target).split("."), module)
    return value.detach()


def _constant(module: GraphModule, name: str, value: Tensor) -> Node:
    module.register_buffer(name, value.contiguous())
    return module.graph.get_attr(name)


def _drop_unused(module: GraphModule) -> None:
    """Remove parameters and buffers that the graph does not read: they would be written too."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in used]:
        owner, _, attribute = name.rpartition(".")
        delattr(operator.attrgetter(owner)(module) if owner else module, attribute)
