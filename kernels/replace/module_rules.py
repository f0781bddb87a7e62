"""What single modules and nodes are, and whether the fused ops can do what they do."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..batch_norm.batch_norm_act.module import BatchNormActBase
from .module_graph import is_timm_batch_norm_act
from .modules import FusedConv2d, FusedCrossEntropyLoss, FusedTimmCrossEntropy

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Softsign: "softsign",
}
# those that no op has, which a report speaks of too
_OTHER_ACTIVATIONS = (
    *(nn.CELU, nn.GLU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LogSigmoid, nn.Mish, nn.PReLU),
    *(nn.RReLU, nn.ReLU6, nn.Softplus, nn.Softshrink, nn.Tanhshrink, nn.Threshold),
)
_TIMM_ACTIVATIONS = "timm.layers.activations"
_TIMM_LABELS = "timm.loss.cross_entropy.LabelSmoothingCrossEntropy"
_TIMM_SOFT_LABELS = "timm.loss.cross_entropy.SoftTargetCrossEntropy"
_FUNCTIONS: dict[Callable[..., Any], str] = {F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.silu: "silu"}
_METHODS = ("relu", "relu_")
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def is_candidate(module: nn.Module) -> bool:
    """Whether a module is of a kind that a report speaks of."""
    kinds = (nn.Conv2d, nn.MaxPool2d)
    return isinstance(module, kinds) or is_batch_norm(module) or is_activation(module) or is_cross_entropy(module)


def is_fused(module: nn.Module) -> bool:
    """Whether a module is one of this library already."""
    return isinstance(module, BatchNormActBase | FusedConv2d | FusedCrossEntropyLoss | FusedTimmCrossEntropy)


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of torch's or timm's activations."""
    if isinstance(module, (*_ACTIVATIONS, *_OTHER_ACTIVATIONS)):
        return True
    return any(kind.__module__.startswith(_TIMM_ACTIVATIONS) for kind in type(module).__mro__)


def is_cross_entropy(module: nn.Module) -> bool:
    """Whether a module is torch's cross entropy, one of timm's, or what replaces these."""
    if isinstance(module, nn.CrossEntropyLoss | FusedTimmCrossEntropy):
        return True
    return any(_path(kind) in (_TIMM_LABELS, _TIMM_SOFT_LABELS) for kind in type(module).__mro__)


def is_batch_norm(module: nn.Module | None) -> bool:
    """Whether a module is a batch norm of any kind."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def is_identity(module: nn.Module | None) -> bool:
    """Whether a module does nothing."""
    return type(module) is nn.Identity or (type(module) is nn.Sequential and len(module) == 0)


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors and nothing else."""
    function = node.op == "call_function" and node.target in _ADDITIONS
    method = node.op == "call_method" and node.target in ("add", "add_")
    return (function or method) and len(node.args) == 2 and not node.kwargs


def is_plain_call(node: fx.Node) -> bool:
    """Whether a module is called with one positional argument."""
    return node.op == "call_module" and len(node.args) == 1 and not node.kwargs


def function_activation(node: fx.Node) -> str | None:
    """The activation that a node computes with a function or a method; None if it does not."""
    if len(node.args) != 1 or node.kwargs.keys() - {"inplace"}:
        return None
    if node.op == "call_method" and node.target in _METHODS:
        return "relu"
    return _FUNCTIONS.get(node.target) if node.op == "call_function" and callable(node.target) else None


def name_of(node: fx.Node) -> str:
    """What a node does, in a word."""
    return getattr(node.target, "__name__", str(node.target))


def activation_of(module: nn.Module) -> tuple[str, float] | str:
    """Name and slope of a module's activation, as ``batch_norm_act`` takes them; else why it cannot be replaced."""
    name = _ACTIVATIONS.get(type(module))
    if name is None:
        return f"it is a {type(module).__name__}, which is not one of {', '.join(_ACTIVATIONS.values())}"
    if isinstance(module, nn.LeakyReLU) and module.negative_slope < 0:
        return f"its slope must be at least 0, it is {module.negative_slope}"
    if isinstance(module, nn.ELU) and module.alpha != 1:
        return f"its alpha must be 1, it is {module.alpha}"
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return f"it must be the exact gelu, it is the {module.approximate} one"
    return name, float(getattr(module, "negative_slope", 0.01))


def batch_norm_unsupported_reason(bn: nn.Module) -> str | None:
    """Why the fused ops cannot run a batch norm."""
    if is_timm_batch_norm_act(bn):
        if type(bn.drop) is not nn.Identity:
            return f"it has a {type(bn.drop).__name__} between batch norm and activation"
    elif type(bn) is not nn.BatchNorm2d:
        return f"it is a {type(bn).__name__}; only BatchNorm2d and timm's BatchNormAct2d are replaced"
    assert isinstance(bn, nn.BatchNorm2d)
    if bn.momentum is not None and not 0 <= bn.momentum <= 1:
        return f"its momentum must lie in [0, 1], it is {bn.momentum}"
    tensors = [t for t in (bn.weight, bn.running_mean) if t is not None]
    if any(t.dtype not in _DTYPES for t in tensors):
        return f"its dtype is {tensors[0].dtype}"
    return None


def pool_unsupported_reason(pool: nn.MaxPool2d) -> str | None:
    """Why a pooling is not the one that is fused."""
    if type(pool) is not nn.MaxPool2d:
        return f"it is a {type(pool).__name__}"
    pairs = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
    for name, wanted in pairs.items():
        if getattr(pool, name) not in (wanted, (wanted, wanted)):
            return f"{name} must be {wanted}, it is {getattr(pool, name)}"
    if pool.ceil_mode or pool.return_indices:
        return f"{'ceil_mode' if pool.ceil_mode else 'return_indices'} must be False"
    return None


def convolution_unsupported_reason(conv: nn.Conv2d) -> str | None:
    """Why the fused convolution cannot do what ``conv`` does."""
    if type(conv) is not nn.Conv2d:
        return f"it is a {type(conv).__name__}"
    if conv.bias is not None:
        return "it has a bias, which batch norm would cancel"
    if conv.groups != 1:
        return f"groups must be 1, it is {conv.groups}"
    if conv.kernel_size not in ((1, 1), (3, 3)):
        return f"kernel_size must be 1 or 3, it is {conv.kernel_size}"
    if conv.stride not in ((1, 1), (2, 2)):
        return f"stride must be 1 or 2, it is {conv.stride}"
    if conv.dilation != (1, 1):
        return f"dilation must be 1, it is {conv.dilation}"
    if isinstance(conv.padding, str) or conv.padding[0] != conv.padding[1] or conv.padding_mode != "zeros":
        return f"padding must be two equal numbers of zeros, it is {conv.padding} {conv.padding_mode}"
    for name in ("in_channels", "out_channels"):
        if getattr(conv, name) % 8:
            return f"{name} must be a multiple of 8, it is {getattr(conv, name)}"
    return None if conv.weight.dtype in _DTYPES else f"its dtype is {conv.weight.dtype}"


def loss_unsupported_reason(loss: nn.Module) -> str | None:
    """Why the fused cross entropy cannot do what a loss does."""
    if type(loss) is nn.CrossEntropyLoss or _path(type(loss)) == _TIMM_SOFT_LABELS:
        return None
    if _path(type(loss)) != _TIMM_LABELS:
        return f"it is a {type(loss).__name__}"
    smoothing: Any = loss.smoothing
    return None if 0 <= smoothing <= 1 else f"its smoothing must lie in [0, 1], it is {smoothing}"


def fused_loss(loss: nn.Module) -> nn.Module:
    """The fused loss that replaces a supported one."""
    if isinstance(loss, nn.CrossEntropyLoss):
        return FusedCrossEntropyLoss.of(loss)
    return FusedTimmCrossEntropy(loss, soft=_path(type(loss)) == _TIMM_SOFT_LABELS)


def _path(kind: type) -> str:
    """Where a class comes from: timm's are recognised without importing timm."""
    return f"{kind.__module__}.{kind.__qualname__}"
