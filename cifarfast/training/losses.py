"""Training losses, from the fused op library."""

from collections.abc import Callable

from torch import Tensor

from cifarfast.kernels import cross_entropy

from ..augment import Batch
from ..recipes.recipe import Recipe

Loss = Callable[[Tensor, Batch], Tensor]


def build_loss(recipe: Recipe) -> Loss:
    """The recipe's training loss: mean cross-entropy of logits [B, C] and the batch's labels, smoothed and mixed."""
    smoothing = recipe.label_smoothing

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch.labels, batch.labels_b, batch.lam, label_smoothing=smoothing)

    return loss
