"""``cross_entropy``: softmax, loss and gradient in one pass; the torch op, its autograd, the function and the module.

The forward kernel has the probabilities of a row in registers when it computes the row's loss, and the gradient needs
nothing else: ``p − t``. So it stores ``∂loss_i/∂logits_i`` (the size of the logits, in their dtype) instead of the
log-probabilities, and the backward is one multiplication by the incoming gradient. Per-sample gradients are stored
before the mean's 1/N, so that in fp16 they do not underflow.
"""

import torch
from torch import Tensor, nn

from ..arguments import names_misfits
from ..library import Gradients, operator, runs_on, runs_plain_torch
from .reference import reference_loss
from .target import Target, check_settings

# one program holds a whole row; above this a row no longer fits in registers
_MAX_TRITON_CLASSES = 4096


@names_misfits
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
    target = Target(labels, labels_b, lam, weight, label_smoothing, focal_gamma, reduction, ignore_index)
    target.check(logits)
    if not runs_plain_torch("cross_entropy", logits):
        return forward(logits, target)[0]
    if not torch.compiler.is_compiling():
        target.check_labels(logits)
    return reference_loss(logits, target)


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
        check_settings(label_smoothing, focal_gamma, reduction)
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


def _runs(op: str, logits: Tensor, *_: object) -> str:
    return "torch" if logits.shape[1] > _MAX_TRITON_CLASSES else runs_on(op, logits)


@operator("cross_entropy", differentiable=1, runs=_runs)
def forward(logits: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    loss = logits.new_empty(logits.shape[:1] if target.reduction == "none" else (), dtype=dtype)
    divisor = logits.new_empty(() if target.has_divisor else (0,), dtype=dtype)
    return loss, logits.new_empty(logits.shape), divisor


# `logits` is passed only so that autograd sees what the result depends on, and a second derivative raises instead of
# being silently zero
@operator("cross_entropy_backward", runs=_runs)
def backward(grad_logits: Tensor, grad_loss: Tensor, divisor: Tensor, logits: Tensor, reduction: str) -> Tensor:
    return grad_logits.new_empty(grad_logits.shape)


@forward.backward(saves=lambda outputs, logits, target: (*outputs[1:], logits, target.reduction))
def _gradients(grad_loss: Tensor, grad_logits: Tensor, divisor: Tensor, logits: Tensor, reduction: str) -> Gradients:
    return {"logits": backward(grad_logits, grad_loss, divisor, logits, reduction)}
