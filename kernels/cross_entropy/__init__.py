"""Cross entropy: hard, mixed and soft labels, smoothing, class weights, focal γ."""

from .op import CrossEntropyLoss, cross_entropy

__all__ = ["CrossEntropyLoss", "cross_entropy"]
