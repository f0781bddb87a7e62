"""What the softmax of a cross entropy is compared with: one dataclass, as ops and implementations take it, checked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import backend
from ..layout import check_strided

_REDUCTIONS = ("mean", "sum", "none")


@dataclass  # not frozen: to make one would take three times as long, which on a CPU shows beside the loss itself
class Target:
    """Labels, weights and settings of a cross entropy; see ``cross_entropy``."""

    labels: Tensor
    labels_b: Tensor | None = None
    lam: Tensor | None = None
    weight: Tensor | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    reduction: str = "mean"
    ignore_index: int = -100

    @property
    def is_soft(self) -> bool:
        """Whether the labels are probabilities."""
        return self.labels.is_floating_point()

    @property
    def has_divisor(self) -> bool:
        """Whether the mean divides by the labels' total weight, which is not known before."""
        return self.reduction == "mean" and not self.is_soft

    def check(self, logits: Tensor) -> None:
        """Raise a ValueError that begins with the name of the argument that does not fit; reads no contents."""
        check_strided("logits", logits)
        shape = logits.shape
        if len(shape) != 2 or shape[0] == 0 or shape[1] == 0:
            raise ValueError(f"logits must be [N, C] with N and C at least 1, got {list(shape)}")
        if not logits.is_floating_point():
            raise ValueError(f"logits must be floating point, got {logits.dtype}")
        if self.is_soft:
            _check_tensor("labels", self.labels, logits, shape, self.labels.dtype)
            if self.labels_b is not None:
                raise ValueError("labels_b needs integer labels: soft labels can be mixed by the caller")
        else:
            _check_tensor("labels", self.labels, logits, shape[:1], torch.int64)
        if (self.labels_b is None) != (self.lam is None):
            given, missing = ("labels_b", "lam") if self.lam is None else ("lam", "labels_b")
            raise ValueError(f"{given} needs {missing}: a sample has one label or two with a share")
        if self.labels_b is not None and self.lam is not None:
            _check_tensor("labels_b", self.labels_b, logits, shape[:1], torch.int64)
            _check_tensor("lam", self.lam, logits, shape[:1], torch.float32)
        if self.weight is not None:
            if not self.weight.is_floating_point():
                raise ValueError(f"weight must be floating point, got {self.weight.dtype}")
            _check_tensor("weight", self.weight, logits, shape[1:], self.weight.dtype)
        check_settings(self.label_smoothing, self.focal_gamma, self.reduction)
        if self.ignore_index >= 0 and self.is_soft:
            raise ValueError(f"ignore_index must be negative for soft labels, got {self.ignore_index}")

    def check_labels(self, logits: Tensor) -> None:
        """Raise a ValueError for a label outside [0, C) that is not ignored.

        It reads the labels, for which a GPU would wait: there only with ``CIFARFAST_DEBUG=1``.
        """
        if self.is_soft or not (logits.is_cpu or backend.debug_checks()):
            return
        n_classes = logits.shape[1]
        for name, tensor in (("labels", self.labels), ("labels_b", self.labels_b)):
            if tensor is None:
                continue
            low, high = tensor.aminmax()
            if low.item() >= 0 and high.item() < n_classes:
                continue
            tensor = tensor[tensor != self.ignore_index]
            wrong = tensor[(tensor < 0) | (tensor >= n_classes)]
            if wrong.numel():
                allowed = f"[0, {n_classes}) or be ignore_index {self.ignore_index}"
                raise ValueError(f"{name} must lie in {allowed}, got {wrong[0].item()}")


def check_settings(label_smoothing: float, focal_gamma: float, reduction: str) -> None:
    """Raise a ValueError for a setting that is not allowed."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if not 0 <= focal_gamma < float("inf"):
        raise ValueError(f"focal_gamma must be finite and at least 0, got {focal_gamma}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")


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
