"""``cross_entropy``: softmax, loss and gradient in one pass; the torch op, its autograd, the function and the module.

The forward kernel has the probabilities of a row in registers when it computes the row's loss, and the gradient needs
nothing else: ``p − t``. So it stores ``∂loss_i/∂logits_i`` (the size of the logits, in their dtype) instead of the
log-probabilities, and the backward is one multiplication by the incoming gradient. Per-sample gradients are stored
before the mean's 1/N, so that in fp16 they do not underflow.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .. import backend
from ..layout import check_strided
from . import torch_impl
from .reference import cross_entropy_reference

_OP = "cross_entropy"
_REDUCTIONS = ("mean", "sum", "none")
# one program holds a whole row; above this a row no longer fits in registers
_MAX_TRITON_CLASSES = 4096

backend.register(_OP, "triton", "torch", package=__package__)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    labels_b: Tensor | None = None,
    lam: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """Cross entropy of softmax(logits) against hard, mixed or soft labels.

    ``loss_i = Σ_c t_ic · w_c · (1 − p_ic)^γ · (−log p_ic)`` with ``p = softmax(logits)`` and
    ``t = (1 − ε) · target + ε / C``; ``target`` is one-hot(labels), or with ``labels_b``
    ``lam · one-hot(labels) + (1 − lam) · one-hot(labels_b)``, or ``labels`` itself if it is floating point.
    Without ``labels_b`` and γ this is ``torch.nn.functional.cross_entropy``: class weights with smoothing and ignored
    labels included.

    Args:
        logits: [N, C], fp32, bf16, fp16 (fp64: plain torch). N ≥ 1.
        labels: [N] int64 classes in [0, C), or [N, C] floating-point probabilities.
        labels_b: [N] int64, the second label of each sample (CutMix, Mixup); needs ``lam``.
        lam: [N] fp32, the share of ``labels``.
        weight: [C] class weights w.
        label_smoothing: ε in [0, 1].
        focal_gamma: γ ≥ 0, the focusing parameter; 0 is plain cross entropy.
        reduction: ``mean``, ``sum`` or ``none``. The mean divides by the labels' total weight (``Σ_i w[labels_i]``,
            mixed by ``lam`` where there are two, each 1 without weights), by N for soft labels.
        ignore_index: a label that counts for nothing: no loss, no gradient, no part in the mean's divisor (without any
            others the mean is NaN, its gradient 0). Of two labels each counts by itself, with its share. Must be
            negative for soft labels, which have none.

    Returns:
        [] or, for ``none``, [N]: fp32 whatever the logits' dtype (fp64 for fp64). Sums have a fixed order. The gradient
        goes to ``logits`` only, in their dtype.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, an empty batch, and on a CPU a label outside
            [0, C) other than ``ignore_index``. On a GPU such a label makes the sample's loss and gradient NaN instead,
            since looking for it would wait for the device; ``CIFARFAST_DEBUG=1`` looks, and raises. Compiled code for
            fp64 leaves it to torch.
        RuntimeError: a second derivative through the kernels (plain torch on a CPU has it).

    Focal loss: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, with (1 − p_c)^γ
    for every class that has a share of the target.
    """
    _check_arguments(logits, labels, labels_b, lam, weight)
    _check_settings(label_smoothing, focal_gamma, reduction)
    _check_ignore_index(ignore_index, labels)
    if _runs_plain_torch(logits):
        if not torch.compiler.is_compiling():
            _check_label_range(logits, labels, labels_b, ignore_index)
        return cross_entropy_reference(
            logits,
            labels,
            labels_b,
            lam,
            weight=weight,
            label_smoothing=label_smoothing,
            focal_gamma=focal_gamma,
            reduction=reduction,
            ignore_index=ignore_index,
        )
    loss, _, _ = torch.ops.cifarfast.cross_entropy(
        logits, labels, labels_b, lam, weight, float(label_smoothing), float(focal_gamma), reduction, ignore_index
    )
    return loss


class CrossEntropyLoss(nn.Module):
    """``cross_entropy`` as a module; replaces ``torch.nn.CrossEntropyLoss`` (same ``state_dict``: ``weight`` if given).

    Takes ``(logits, labels)`` or ``(logits, labels, labels_b, lam)``. See ``cross_entropy`` for settings, shapes and
    errors.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        _check_settings(label_smoothing, focal_gamma, reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma

    def forward(
        self, logits: Tensor, labels: Tensor, labels_b: Tensor | None = None, lam: Tensor | None = None
    ) -> Tensor:
        return cross_entropy(
            logits,
            labels,
            labels_b,
            lam,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
        )

    def extra_repr(self) -> str:
        return (
            f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, "
            f"label_smoothing={self.label_smoothing:g}, focal_gamma={self.focal_gamma:g}"
        )


def _runs_plain_torch(logits: Tensor) -> bool:
    """Whether to skip the custom op: its dispatch costs more than the whole loss of a small batch on a CPU."""
    if torch.compiler.is_compiling():
        return logits.dtype == torch.float64
    # a subclass may be a fake tensor, which has no contents to check
    return logits.is_cpu and type(logits) is Tensor and _implementation(logits) is torch_impl


def _implementation(logits: Tensor) -> ModuleType:
    """The module with ``cross_entropy_fwd`` and ``cross_entropy_bwd`` for these logits."""
    if logits.dtype == torch.float64 or logits.shape[1] > _MAX_TRITON_CLASSES:
        return torch_impl
    if backend.choose(_OP, logits.device).backend == "torch":
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::cross_entropy", mutates_args=())
def _cross_entropy(
    logits: Tensor,
    labels: Tensor,
    labels_b: Tensor | None,
    lam: Tensor | None,
    weight: Tensor | None,
    label_smoothing: float,
    focal_gamma: float,
    reduction: str,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor]:
    if logits.is_cpu or backend.debug_checks():
        _check_label_range(logits, labels, labels_b, ignore_index)
    forward = _implementation(logits).cross_entropy_fwd
    return forward(logits, labels, labels_b, lam, weight, label_smoothing, focal_gamma, reduction, ignore_index)


@_cross_entropy.register_fake
def _cross_entropy_fake(
    logits: Tensor,
    labels: Tensor,
    labels_b: Tensor | None,
    lam: Tensor | None,
    weight: Tensor | None,
    label_smoothing: float,
    focal_gamma: float,
    reduction: str,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    loss = logits.new_empty(logits.shape[:1] if reduction == "none" else (), dtype=dtype)
    has_divisor = torch_impl.has_divisor(labels, reduction)
    divisor = logits.new_empty(() if has_divisor else (0,), dtype=dtype)
    return loss, logits.new_empty(logits.shape), divisor


# `logits` is passed only so that autograd sees what the result depends on, and a second derivative raises instead of
# being silently zero
@torch.library.custom_op("cifarfast::cross_entropy_backward", mutates_args=())
def _cross_entropy_backward(
    grad_loss: Tensor, grad_logits: Tensor, divisor: Tensor, logits: Tensor, reduction: str
) -> Tensor:
    return _implementation(grad_logits).cross_entropy_bwd(grad_loss, grad_logits, divisor, reduction)


@_cross_entropy_backward.register_fake
def _cross_entropy_backward_fake(
    grad_loss: Tensor, grad_logits: Tensor, divisor: Tensor, logits: Tensor, reduction: str
) -> Tensor:
    return grad_logits.new_empty(grad_logits.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, reduction = inputs[0], inputs[7]
    _, grad_logits, divisor = output
    ctx.mark_non_differentiable(grad_logits, divisor)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad_logits, divisor, logits)
    ctx.reduction = reduction


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    none = (None,) * 8
    if grad_loss is None:
        return None, *none
    return torch.ops.cifarfast.cross_entropy_backward(grad_loss, *ctx.saved_tensors, ctx.reduction), *none


def _double_backward(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError("cross_entropy has no second derivative; CIFARFAST_BACKEND=torch has one on a CPU")


_cross_entropy.register_autograd(_backward, setup_context=_setup_context)
_cross_entropy_backward.register_autograd(_double_backward)


def _check_arguments(
    logits: Tensor, labels: Tensor, labels_b: Tensor | None, lam: Tensor | None, weight: Tensor | None
) -> None:
    check_strided("logits", logits)
    shape = logits.shape
    if len(shape) != 2 or shape[0] == 0 or shape[1] == 0:
        raise ValueError(f"logits must be [N, C] with N and C at least 1, got {list(shape)}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    if labels.is_floating_point():
        _check_tensor("labels", labels, logits, shape, labels.dtype)
        if labels_b is not None:
            raise ValueError("labels_b needs integer labels: soft labels can be mixed by the caller")
    else:
        _check_tensor("labels", labels, logits, shape[:1], torch.int64)
    if (labels_b is None) != (lam is None):
        given, missing = ("labels_b", "lam") if lam is None else ("lam", "labels_b")
        raise ValueError(f"{given} needs {missing}: a sample has one label or two with a share")
    if labels_b is not None and lam is not None:
        _check_tensor("labels_b", labels_b, logits, shape[:1], torch.int64)
        _check_tensor("lam", lam, logits, shape[:1], torch.float32)
    if weight is not None:
        if not weight.is_floating_point():
            raise ValueError(f"weight must be floating point, got {weight.dtype}")
        _check_tensor("weight", weight, logits, shape[1:], weight.dtype)


def _check_tensor(name: str, tensor: Tensor, logits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_strided(name, tensor)
    if tensor.shape != shape:
        raise ValueError(
            f"{name} must be {list(shape)} for logits {list(logits.shape)}, got {list(tensor.shape)} {tensor.dtype}"
        )
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, got {tensor.dtype}")
    if tensor.device != logits.device:
        raise ValueError(f"{name} must be on the logits' device {logits.device}, got {tensor.device}")
    if tensor.requires_grad:
        raise ValueError(f"{name} must not require a gradient: only the logits get one")


def _check_settings(label_smoothing: float, focal_gamma: float, reduction: str) -> None:
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if not 0 <= focal_gamma < float("inf"):
        raise ValueError(f"focal_gamma must be finite and at least 0, got {focal_gamma}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")


def _check_ignore_index(ignore_index: int, labels: Tensor) -> None:
    if ignore_index >= 0 and labels.is_floating_point():
        raise ValueError(f"ignore_index must be negative for soft labels, got {ignore_index}")


def _check_label_range(logits: Tensor, labels: Tensor, labels_b: Tensor | None, ignore_index: int) -> None:
    """Raise for a label outside [0, C) that is not ignored; reads the labels' values, so on a GPU it waits."""
    if labels.is_floating_point():
        return
    n_classes = logits.shape[1]
    for name, tensor in (("labels", labels), ("labels_b", labels_b)):
        if tensor is None:
            continue
        low, high = tensor.aminmax()
        if low.item() >= 0 and high.item() < n_classes:
            continue
        tensor = tensor[tensor != ignore_index]
        wrong = tensor[(tensor < 0) | (tensor >= n_classes)]
        if wrong.numel():
            allowed = f"[0, {n_classes}) or be ignore_index {ignore_index}"
            raise ValueError(f"{name} must lie in {allowed}, got {wrong[0].item()}")
