"""``replace_modules``: the fused ops in an existing model, in place."""

import torch
from torch import nn

from ..batch_norm.batch_norm_act.module import BatchNormAct2d, BatchNormActBase
from ..pooling.max_pool_bn_act.op import MaxPoolBatchNormAct2d
from .fusion_patterns import Chain
from .module_graph import ModuleGraph
from .module_rules import fused_loss
from .modules import ConvBatchNormAct2d, FusedConv2d, ResidualBlock, batch_norm_of
from .plan import make_plan
from .report import Left, Replaced, ReplaceReport

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def replace_modules(model: nn.Module) -> ReplaceReport:
    """Put the fused ops into a model, in place.

    It replaces, whatever the model's classes are:

    * conv → batch norm → activation, and conv → batch norm alone, by ``conv2d_bn_act``; where the convolution cannot be
      fused, and where the batch norm comes first (pre-activation), batch norm → activation by ``batch_norm_act``;
    * batch norm → activation → ``MaxPool2d(2)`` by ``max_pool_bn_act``;
    * blocks that are ``act(bn(…) + shortcut(x))``, as those of torchvision's and timm's ResNets, by ``ResidualBlock``,
      in which batch norm, addition and activation are one op, even if one activation module is used several times;
    * ``torch.nn.CrossEntropyLoss`` and timm's ``LabelSmoothingCrossEntropy`` and ``SoftTargetCrossEntropy`` by
      ``cross_entropy``.

    Parameters and buffers stay the same objects under the same names: optimizers made before go on working, and
    ``state_dict`` can be loaded from and into the original. Results are those of the original up to rounding, in
    training and in eval, on a CPU and a GPU; batch norm and activation are rounded once instead of twice.

    What is shared, hooked, used by something else, called in a way that cannot be followed or not supported is left
    alone; the report says why. A ``forward`` is followed by ``torch.fx``, container by container, without running it.
    One that cannot be followed is taken to call its own submodules only, not those inside them. What a residual block
    decides by its settings is decided once, now. Call this after what else exchanges modules, such as
    ``SyncBatchNorm.convert_sync_batchnorm``, and before ``torch.compile`` and ``DistributedDataParallel``;
    ``model.to(memory_format=torch.channels_last)`` makes the result fast.

    Example::

        >>> from torch import nn
        >>> from cifarfast.kernels import replace_modules
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        ...     nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.SiLU(),
        ... )
        >>> print(replace_modules(model))
        replaced 2:
          1, 2: batch_norm_act, batch norm, relu
          3, 4, 5: conv2d_bn_act, convolution, batch norm, silu
        left 1:
          0: in_channels must be a multiple of 8, it is 3

    Args:
        model: any module; it may be on any device, in training or in eval mode. A second call finds nothing to do.

    Returns:
        What was replaced and what was left, to print. Its ``model`` is the one that was given, unless that itself is a
        loss or a residual block: then it is what replaces it.

    Raises:
        TypeError: model is no module.
        ValueError: model was compiled, scripted or wrapped for data parallelism.
    """
    _check(model)
    module_graph = ModuleGraph(model)
    plan = make_plan(module_graph)
    swap = _Swap(model, module_graph)
    entries = {}  # by the first module
    for chain in plan.chains:
        swap.chain(chain)
        entries[chain.modules[0]] = _entry(module_graph, chain, adds=False)
    for block in plan.blocks:
        swap.put(block.container, ResidualBlock(block.container, block.main, block.last, block.shortcut))
        last = block.chains[-1]
        entries[last.modules[0]] = _entry(module_graph, last, adds=True)
    for act in plan.activations:
        swap.put(act, nn.Identity())
    for loss in plan.losses:
        swap.put(loss, fused_loss(loss))
        entries[loss] = Replaced((module_graph.names[loss],), "cross_entropy", "softmax, loss and gradient")
    replaced = tuple(entries[module] for module in module_graph.names if module in entries)
    left = tuple(Left(module_graph.names[module], reason) for module, reason in plan.left.items())
    return ReplaceReport(swap.model, replaced, left)


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, _WRAPPERS):
        raise ValueError(f"model must not be wrapped yet: replace the modules of {type(model).__name__}.module before")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model must not be scripted: replace its modules before")
    if any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in model.modules()):
        raise ValueError("model must not be compiled yet: replace its modules before torch.compile")


def _entry(module_graph: ModuleGraph, chain: Chain, *, adds: bool) -> Replaced:
    parts = ["convolution"] if chain.conv else []
    parts += ["batch norm", *(["addition"] if adds else [])]
    parts += [] if chain.act == "identity" else [chain.act]
    parts += ["2×2 max-pooling"] if chain.pool else []
    op = "max_pool_bn_act" if chain.pool else "conv2d_bn_act" if chain.conv else "batch_norm_act"
    return Replaced(tuple(module_graph.names[module] for module in chain.modules), op, ", ".join(parts))


class _Swap:
    """Puts new modules where old ones were."""

    def __init__(self, model: nn.Module, module_graph: ModuleGraph) -> None:
        self.model, self.module_graph = model, module_graph

    def put(self, old: nn.Module, new: nn.Module) -> None:
        """Register ``new`` wherever ``old`` was, in the same mode."""
        new.training = old.training
        if old is self.model:
            self.model = new
        for place in self.module_graph.places[old]:
            place.parent.add_module(place.attribute, new)

    def chain(self, chain: Chain) -> None:
        """Replace the modules of a chain but its activation, which others may use."""
        kind: type[BatchNormActBase] = BatchNormAct2d
        conv = None
        if chain.pool:
            kind = MaxPoolBatchNormAct2d
            self.put(chain.pool, nn.Identity())
        elif chain.conv:
            kind, conv = ConvBatchNormAct2d, FusedConv2d.of(chain.conv)
            self.put(chain.conv, conv)
        self.put(chain.bn, batch_norm_of(kind, chain.bn, chain.act, chain.negative_slope, conv))
